"""Which certificates are trusted: those of the public authorities, or of one file where a tenant names it (``ca``)."""

from __future__ import annotations

import ssl
from functools import lru_cache

import httpx

from tidelock.errors import Revoked
from tidelock.tenants import Tenant


def trust(tenant: Tenant) -> ssl.SSLContext:
    """Return what connections to a tenant trust. Raises Revoked if its file cannot be read: it is this tenant's trouble alone."""
    given = tenant.options.get("ca") or tenant.credentials.get("ca")
    if not given:
        return _public()
    try:
        return ssl.create_default_context(cafile=str(given))
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Revoked(
            f"{tenant.path}: the certificates in {given} cannot be read: {reason}",
            hint=f"correct the option `ca` of {tenant.path}: a file of PEM certificates",
        ) from error


@lru_cache(maxsize=1)
def _public() -> ssl.SSLContext:
    return httpx.create_ssl_context()
