"""Signing in to Dynamics 365 at Microsoft Entra: as the application itself, or as the person who has connected the tenant.

Source: Microsoft identity platform, "OAuth 2.0 client credentials flow" and "authorization code flow".
"""

from __future__ import annotations

from tidelock.apis.connecting import SignIn
from tidelock.auth import ClientCredentials, Grant, RefreshToken
from tidelock.errors import Fatal
from tidelock.tenants import Tenant

LOGIN = "https://login.microsoftonline.com"


def address(tenant: Tenant) -> str:
    """Return the address of the environment. Raises Fatal if there is none."""
    if not tenant.url:
        raise Fatal(
            f"{tenant.path} has no address", hint=f"set `url` of {tenant.path}: https://example.crm.dynamics.com"
        )
    return tenant.url.rstrip("/")


def endpoint(what: str, tenant: Tenant) -> str:
    """Return an address of the directory, ``token`` or ``authorize``. Raises Fatal if nobody says which directory it is."""
    options = tenant.options
    if options.get(f"{what}_url"):
        return str(options[f"{what}_url"])
    directory = tenant.credentials.get("tenant") or options.get("directory")
    if not directory:
        raise Fatal(
            f"{tenant.path} has no directory to sign in at",
            hint=f"set the credential `tenant` of {tenant.path}: the id of the Microsoft Entra directory",
        )
    return f"{str(options.get('login', LOGIN)).rstrip('/')}/{directory}/oauth2/v2.0/{what}"


def grant(tenant: Tenant) -> Grant:
    """Return how to sign in: as the person who has connected the tenant, else as the application itself."""
    token_url, scope = endpoint("token", tenant), f"{address(tenant)}/.default"
    if tenant.credentials.get("refresh_token"):
        return RefreshToken(token_url, {"scope": f"{scope} offline_access"})
    return ClientCredentials(token_url, parameters={"scope": scope})


SIGN_IN = SignIn(
    lambda tenant: endpoint("authorize", tenant),
    lambda tenant: endpoint("token", tenant),
    lambda tenant: (f"{address(tenant)}/.default", "offline_access"),
)
"""How a person signs in (`tidelock tenants connect`): authorisation code with PKCE, and a refresh token that is kept."""
