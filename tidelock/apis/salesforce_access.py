"""Signing in to a Salesforce org: whichever grant its credentials are for, and how a person connects it."""

from __future__ import annotations

from urllib.parse import urlsplit

from tidelock.apis.connecting import SignIn
from tidelock.auth import ClientCredentials, Grant, JwtBearer, RefreshToken, Token
from tidelock.errors import Fatal
from tidelock.tenants import Tenant

LOGIN = "https://login.salesforce.com"
SANDBOX = "https://test.salesforce.com"


def login_url(tenant: Tenant) -> str:
    """Return where a tenant signs in: its option `login_url`, its own domain, or the common host."""
    return str(tenant.options.get("login_url") or tenant.url or LOGIN).rstrip("/")


def token_url(tenant: Tenant) -> str:
    """Return the token endpoint."""
    return f"{login_url(tenant)}/services/oauth2/token"


def authorise_url(tenant: Tenant) -> str:
    """Return the address at which a person allows the application."""
    return f"{login_url(tenant)}/services/oauth2/authorize"


def audience(tenant: Tenant) -> str:
    """Return whom an assertion is for: the common host, also where the org has a domain of its own."""
    given = tenant.options.get("audience")
    if given:
        return str(given)
    host = urlsplit(login_url(tenant)).hostname or ""
    return SANDBOX if ".sandbox." in host or host == urlsplit(SANDBOX).hostname else LOGIN


def grant_of(tenant: Tenant) -> Grant:
    """Return the grant that the credentials are for. Raises Fatal for an option that is none."""
    style = str(tenant.options.get("secret_in", "body"))
    if style not in ("body", "basic"):
        raise Fatal(f"{tenant.path}: options.secret_in is {style!r}", hint="it is body or basic")
    if tenant.credentials.get("refresh_token"):
        return RefreshToken(token_url)
    if tenant.credentials.get("private_key"):
        return JwtBearer(token_url, audience)
    if tenant.credentials.get("client_secret"):
        if not tenant.url and not tenant.options.get("login_url"):
            raise Fatal(
                f"{tenant.path}: signing in by client credentials needs the org's own address",
                hint="set `url`: https://MYDOMAIN.my.salesforce.com, as Setup → My Domain shows it",
            )
        return ClientCredentials(token_url, "basic" if style == "basic" else "body")
    return RefreshToken(token_url)  # says itself that somebody has to connect the tenant


def instance_url(tenant: Tenant, token: Token) -> str:
    """Return where the API answers: the sign-in tells it, and it moves with the org."""
    return str(token.extra.get("instance_url") or tenant.url or "")


def user_of(token: Token) -> str | None:
    """Return whom a token belongs to, by the address of its identity."""
    return str(token.extra.get("id") or "").rpartition("/")[2] or None


SIGN_IN = SignIn(
    authorise_url,
    token_url,
    scopes=("api", "refresh_token"),
    parameters={"prompt": "login consent"},
)
"""How a person connects an org (`tidelock tenants connect`): an entry point of the group ``tidelock.apis``."""
