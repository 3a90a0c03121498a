"""Places: the tenants of systems, as people name them on the command line, and as records of ``ops.signals`` are named after them.

A place is ``system/tenant``. Where a system has one tenant only, people say just the system.
"""

from __future__ import annotations

from collections.abc import Iterator

from tidelock.config import Config, SystemSpec
from tidelock.errors import Fatal

TENANT_HEAD = "tenant/"


def shown(spec: SystemSpec, system: str, tenant: str) -> str:
    """Return what people call a place: its system, unless that has, or had, other tenants."""
    return system if list(spec.all_tenants) == [tenant] else f"{system}/{tenant}"


def seed_key(spec: SystemSpec, system: str, tenant: str, entity: str) -> str:
    """Return the key under which captures say how far a seed is."""
    return f"seed/{shown(spec, system, tenant)}/{entity}"


def seed_request_key(spec: SystemSpec, system: str, tenant: str, entity: str) -> str:
    """Return the key under which a seed is asked for."""
    return f"request/{seed_key(spec, system, tenant, entity)}"


def tenant_key(system: str, tenant: str) -> str:
    """Return the key under which a sink says why a tenant takes no writes; there is no such record while it does."""
    return f"{TENANT_HEAD}{system}/{tenant}"


def find_system(config: Config, name: str) -> SystemSpec:
    """Return a system by its name. Raises Fatal if there is none."""
    spec = config.systems.get(name)
    if spec is None:
        raise Fatal(f"there is no system {name!r}", hint=f"systems: {', '.join(config.systems)}")
    return spec


def find_tenants(config: Config, system: str, tenant: str | None = None) -> list[str]:
    """Return the tenants that are meant: the one that is named, or all of the system. Raises Fatal if there is none of that name."""
    known = find_system(config, system).all_tenants
    if tenant is None:
        return list(known)
    if tenant not in known:
        raise Fatal(f"{system} has no tenant {tenant!r}", hint=f"it has: {', '.join(known)}")
    return [tenant]


def find_place(config: Config, text: str) -> tuple[str, str]:
    """Read ``system`` or ``system/tenant`` as (system, tenant). Raises Fatal if it is none, or could be several."""
    system, _, tenant = text.partition("/")
    found = find_tenants(config, system, tenant or None)
    if len(found) > 1:
        raise Fatal(
            f"{system} has several tenants: which of them is meant?",
            hint=f"say {' or '.join(f'{system}/{t}' for t in found[:5])}{' …' if len(found) > 5 else ''}",
        )
    return system, found[0]


def read_native(config: Config, text: str) -> tuple[str, str, str]:
    """Read ``system/native key``, or ``system/tenant/native key``, as (system, tenant, native key).

    The tenant may be left out where a system has only one. Raises Fatal if it is no such name, or if it is not clear which tenant is meant.
    """
    system, _, rest = text.partition("/")
    spec = find_system(config, system)
    first, _, more = rest.partition("/")
    if not rest:
        raise Fatal(f"{text!r} names no record of {system}", hint=f"write {system}/ and its key there")
    if len(spec.all_tenants) == 1:
        return system, next(iter(spec.all_tenants)), rest
    if first not in spec.all_tenants or not more:
        raise Fatal(
            f"{system} has several tenants, and {text!r} names none of them",
            hint=f"write {system}/tenant/key; its tenants: {', '.join(spec.all_tenants)}",
        )
    return system, first, more


def every_place(config: Config, entity: str) -> Iterator[tuple[str, str]]:
    """Yield every place that has an entity, as (system, tenant)."""
    for system, spec in config.systems.items():
        if entity in spec.entities:
            for tenant in spec.all_tenants:
                yield system, tenant
