"""The options of the HubSpot simulator, as `tidelock simulate hubspot --option name=value` gives them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from zoneinfo import ZoneInfo


@dataclass(slots=True)
class Options:
    """What one portal is like. A limit of 0 means that there is none."""

    portal_id: int = 62515
    app_id: int = 1160452
    private_app_id: int = 0
    """The id of the app behind the private token; 0: the same as the other's."""
    app_name: str = "tidelock"
    client_id: str = "5f1a6f2c-7a51-4f4e-8a0c-3f6f1f5e2b11"
    client_secret: str = "c1b7e0a4-93f5-4c53-9a51-0b1d6d1f7a20"  # noqa: S105 - it opens nothing but this simulator
    scopes: str = ""
    """The scopes that the app has, with blanks between; empty: all."""
    token_life_s: float = 1800.0
    burst: int = 190
    """Calls per 10 s of the private app."""
    oauth_burst: int = 110
    """Calls per 10 s of the OAuth app."""
    daily: int = 650_000
    search_per_s: int = 5
    search_lag_s: float = 1.0
    search_groups: int = 5
    search_group_filters: int = 6
    search_filters: int = 18
    merge_keeps_id: bool = False
    """The portal is in the vendor's "Primary ID Preservation" beta."""
    unset: str = "null"
    """How a property without a value is shown that was asked for: null, or absent (as strict readers of the published models want)."""
    time_zone: str = "US/Eastern"
    currency: str = "USD"
    signature: str = "v1"
    """Which of the old signatures a webhook has besides v3: v1 or v2."""
    webhook_delay_s: float = 0.05
    """How long events are collected before they leave together."""
    webhook_batch: int = 99
    contacts: int = 0
    companies: int = 0
    deals: int = 0
    products: int = 0

    @classmethod
    def read(cls, given: dict[str, str]) -> Options:
        """Return the options from their texts, and take those that are known out of ``given``. Raises ValueError."""
        options = cls()
        for known in fields(cls):
            if known.name not in given:
                continue
            text = given.pop(known.name)
            try:
                setattr(options, known.name, _read(type(getattr(options, known.name)), text))
            except ValueError as error:
                raise ValueError(f"option {known.name}={text}: {error}") from None
        if options.unset not in ("null", "absent"):
            raise ValueError(f"option unset={options.unset}: it is null or absent")
        if options.signature not in ("v1", "v2"):
            raise ValueError(f"option signature={options.signature}: it is v1 or v2")
        if not 1 <= options.webhook_batch <= 100:
            raise ValueError(f"option webhook_batch={options.webhook_batch}: the vendor sends 1 to 100 events at once")
        try:
            ZoneInfo(options.time_zone)
        except (KeyError, ValueError):
            raise ValueError(f"option time_zone={options.time_zone}: there is no such time zone") from None
        options.private_app_id = options.private_app_id or options.app_id
        return options


def _read(type_: type, text: str) -> object:
    if type_ is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError("it is true or false")
        return text.lower() in ("true", "1", "yes")
    try:
        return type_(text)
    except ValueError:
        raise ValueError("it is a whole number" if type_ is int else "it is a number") from None
