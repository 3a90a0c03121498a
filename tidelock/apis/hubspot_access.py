"""How one signs in at HubSpot: a private app's token, or an app that a person has connected to their portal (OAuth 2.0).

Refresh tokens do not change when they are used, and an access token is good for half an hour. Source: HubSpot, "Working with OAuth".
"""

from __future__ import annotations

from tidelock.apis.connecting import SignIn
from tidelock.grants import Grant, RefreshToken, Static
from tidelock.tenants import Tenant

BASE = "https://api.hubapi.com"
_PAGE = "https://app.hubspot.com/oauth/authorize"
_SHORT = {"products": "e-commerce", "line_items": "e-commerce", "tickets": "tickets"}


def base_of(tenant: Tenant) -> str:
    """Return where a tenant's API answers."""
    return (tenant.url or BASE).rstrip("/")


def by_token(tenant: Tenant) -> bool:
    """Return whether a tenant has a private app's token; otherwise it signs in by OAuth."""
    return bool(tenant.credentials.get("token"))


def grant_of(tenant: Tenant) -> Grant:
    """Return how a tenant gets its tokens."""
    if by_token(tenant):
        return Static("token")
    return RefreshToken(str(tenant.options.get("token_url") or f"{base_of(tenant)}/oauth/v1/token"))


def scopes_of(tenant: Tenant) -> tuple[str, ...]:
    """Return the scopes to ask for: those of the option ``scopes``, else everything that contacts and companies need."""
    told = tenant.options.get("scopes")
    if told:
        return tuple(told.split() if isinstance(told, str) else (str(s) for s in told))
    kinds = tenant.options.get("objects", ("contacts", "companies"))
    out = ["oauth"]
    for kind in kinds:
        if kind in _SHORT:
            out.append(_SHORT[kind])
        else:
            out += [f"crm.{what}.{kind}.{right}" for what in ("objects", "schemas") for right in ("read", "write")]
    return tuple(dict.fromkeys(out))


def _page(tenant: Tenant) -> str:
    told = tenant.options.get("authorise_url")
    if told:
        return str(told)
    return _PAGE if base_of(tenant) == BASE else f"{base_of(tenant)}/oauth/authorize"


SIGN_IN = SignIn(
    _page,
    lambda tenant: str(tenant.options.get("token_url") or f"{base_of(tenant)}/oauth/v1/token"),
    scopes_of,
)
