"""Texts with a meaning of their own: e-mail addresses, telephone numbers, countries, currencies; each to one spelling or to none.

Nothing is guessed: what is not known as it stands gives None, and the mapping flags it. Sources: ISO 3166 and ISO 4217 by
`pycountry`, names in other languages by `babel` (CLDR), telephone numbers by `phonenumbers`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import phonenumbers
import pycountry
from babel import Locale
from babel.numbers import get_currency_precision

CACHE = 32_768
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(?:\.[^@\s.]+)+")
_LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pt", "pl", "sv", "da")

# Spellings in common use that neither ISO nor CLDR lists.
_COMMON = {
    "USA": "US, U S, U S A, America, United States, The United States, The United States of America, Estados Unidos",
    "GBR": "UK, U K, GB, Great Britain, Britain, England, Scotland, Wales, Northern Ireland",
    "NLD": "Holland, The Netherlands",
    "CZE": "Czech Republic, Czechia",
    "KOR": "South Korea, Korea South",
    "PRK": "North Korea, Korea North",
    "RUS": "Russia",
    "VNM": "Vietnam, Viet Nam",
    "IRN": "Iran",
    "SYR": "Syria",
    "LAO": "Laos",
    "MDA": "Moldova",
    "TZA": "Tanzania",
    "BOL": "Bolivia",
    "VEN": "Venezuela",
    "TWN": "Taiwan",
    "TUR": "Turkey, Turkiye",
    "CIV": "Ivory Coast",
    "CPV": "Cape Verde",
    "SWZ": "Swaziland",
    "MMR": "Burma",
    "MKD": "Macedonia",
    "COD": "DR Congo, Congo Kinshasa, Democratic Republic of the Congo",
    "COG": "Congo Brazzaville, Republic of the Congo",
    "ARE": "UAE, Emirates",
    "PSE": "Palestine",
    "VAT": "Vatican, Vatican City",
    "BRN": "Brunei",
    "DEU": "BRD",
}


def normal_email(text: str) -> str | None:
    """Return an address trimmed and in lower case, which is how all systems in practice compare them."""
    text = text.strip().lower()
    return text if _EMAIL.fullmatch(text) else None


@lru_cache(CACHE)
def normal_phone(text: str, region: str | None) -> str | None:
    """Return a number in E.164 (ITU-T), followed by ``;ext=…`` if it has an extension, which E.164 alone would lose."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    out: str = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return f"{out};ext={number.extension}" if number.extension else out


def _key(text: str) -> str:
    bare = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(c if c.isalnum() else " " for c in bare if not unicodedata.combining(c))
    return " ".join(letters.split()).removeprefix("the ")


@lru_cache(1)
def _countries() -> dict[str, str]:
    """Return spelling → alpha-3. Codes and English names come first; a name that means two countries means none."""
    known: dict[str, str] = {}
    for c in pycountry.countries:
        known[_key(c.alpha_2)] = known[_key(c.alpha_3)] = c.alpha_3
    for c in pycountry.countries:
        for name in (c.name, getattr(c, "common_name", ""), getattr(c, "official_name", "")):
            if name:
                known.setdefault(_key(name), c.alpha_3)
    for alpha_3, names in _COMMON.items():
        for name in names.split(", "):
            known.setdefault(_key(name), alpha_3)
    foreign: dict[str, set[str]] = {}
    for language in _LANGUAGES:
        for alpha_2, name in Locale(language).territories.items():
            found = pycountry.countries.get(alpha_2=alpha_2) if len(alpha_2) == 2 else None
            if found is not None:
                foreign.setdefault(_key(name), set()).add(found.alpha_3)
    for name, meant in foreign.items():
        if len(meant) == 1:
            known.setdefault(name, next(iter(meant)))
    return known


@lru_cache(CACHE)
def normal_country(text: str) -> str | None:
    """Return the ISO 3166 alpha-3 code of a country's code or name."""
    return _countries().get(_key(text))


def country_spellings(style: str) -> dict[str, str]:
    """Return alpha-3 → how a system spells countries: ``alpha_2``, ``alpha_3`` or ``name`` (the common English one)."""
    if style == "name":
        return {c.alpha_3: getattr(c, "common_name", c.name) for c in pycountry.countries}
    return {c.alpha_3: getattr(c, style) for c in pycountry.countries}


def normal_currency(text: str) -> str | None:
    """Return an ISO 4217 code in upper case."""
    code = text.strip().upper()
    return code if pycountry.currencies.get(alpha_3=code) else None


def minor_digits(currency: str | None) -> int:
    """Return how many digits a currency's minor unit has; 2 without one. Raises ValueError for an unknown code."""
    if currency is None:
        return 2
    if normal_currency(currency) is None:
        raise ValueError(f"{currency} is not an ISO 4217 currency code")
    return int(get_currency_precision(currency.upper()))
