"""``tidelock tenants``: the organisations, portals and shops of systems behind APIs, and their credentials."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidelock import central
from tidelock.apis.connecting import Connecting, Receiver, query_of, vendor_of
from tidelock.avro import FieldType
from tidelock.central import Central
from tidelock.cli.common import DEFAULT_CONFIG, PROBLEMS, ConfigOption, JsonOption, err, read_config, show, with_central
from tidelock.conditions import compile_condition
from tidelock.config import Config
from tidelock.errors import Fatal
from tidelock.limits import Usage, usage
from tidelock.tenantfields import check_added
from tidelock.tenants import Tenant, Tenants, with_tenants

app = typer.Typer(
    name="tenants",
    help="Tenants of systems behind APIs: ls, add, set, connect, enable, disable, remove.",
    no_args_is_help=True,
)

System = Annotated[str, typer.Argument(help="The system's name in the configuration.")]
Name = Annotated[str, typer.Argument(help="The tenant's name.")]
Url = Annotated[str | None, typer.Option(help="Where its API answers, instead of the system's `url`.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="name=value, instead of the system's option of that name.")
]
Credentials = Annotated[
    list[str] | None,
    typer.Option(
        "--credential", help="A name; its value is asked for, or read from stdin (a line each, in this order)."
    ),
]
Files = Annotated[
    list[str] | None,
    typer.Option("--credential-file", help="name=path: the file's content, for example a private key."),
]
Fields = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        help="name=value: a field that all records of the tenant have, and only they; the same names for all tenants of a system.",
    ),
]
When = Annotated[str | None, typer.Option(help="Only records for which this condition holds are written to it.")]


class _Opened:
    """The configuration and its tenants. Raises Fatal if no system can have any."""

    def __init__(self, path: Path) -> None:
        self.config: Config = read_config(path)
        if not central.needed(self.config):
            raise Fatal(
                f"no system in {path} is reached through an API, so there are no tenants",
                hint="give a system `url`, `credentials` or `tenants`",
            )
        self.config = with_central(self.config)
        self.central = Central(self.config)
        self.tenants = Tenants(self.config, self.central)

    def close(self) -> None:
        self.central.close()


@app.command("ls")
def ls(
    system: Annotated[str | None, typer.Argument(help="Only this system.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Show tenants with their state, and what they have called today. Exit code 3 if one is revoked."""
    with closing(_Opened(config)) as opened:
        names = [system] if system else [n for n, s in opened.config.systems.items() if central.uses_api(s)]
        rows = []
        for name in names:
            used = usage(opened.central, name)
            rows += [_row(tenant, _sum(used, tenant.name)) for tenant in opened.tenants.all(name)]
    show(rows, as_json=json, empty="there are no tenants; `tidelock tenants add` adds one")
    if any(row["state"] == "revoked" for row in rows):
        raise typer.Exit(PROBLEMS)


def _row(tenant: Tenant, used: Usage) -> dict[str, Any]:
    return {
        "system": tenant.system,
        "tenant": tenant.name,
        "state": tenant.state,
        "since": tenant.since.isoformat(timespec="seconds") if tenant.since else None,
        "reason": tenant.reason,
        "url": tenant.url,
        "fields": " ".join(f"{name}={value}" for name, value in tenant.fields.items()) or None,
        "from": "command line" if tenant.added else "file",
        "calls_today": used.calls,
        "daily_budget": used.daily,
        "left": used.left,
        "paused_s": round(used.paused_s) or None,
    }


def _sum(used: dict[tuple[str, str], Usage], tenant: str) -> Usage:
    """Put together what the vendor counts apart: calls are added, of budgets the one that says something counts."""
    own = [u for (name, _), u in used.items() if name == tenant]
    return Usage(
        sum(u.calls for u in own),
        next((u.daily for u in own if u.daily is not None), None),
        min((u.left for u in own if u.left is not None), default=None),
        max((u.paused_s for u in own), default=0.0),
    )


@app.command("add")
def add(
    system: System,
    name: Name,
    url: Url = None,
    option: Options = None,
    credential: Credentials = None,
    credential_file: Files = None,
    field: Fields = None,
    when: When = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Add a tenant. Running workers notice it within seconds."""
    with closing(_Opened(config)) as opened:
        _check(opened.config, system, url, when)
        fields = _fields(field)
        if system in opened.config.systems:
            check_added(with_tenants(opened.config, opened.central), system, name, fields)
        given = _secrets(credential, credential_file)
        tenant = opened.tenants.add(
            system, name, url=url, options=_options(option), credentials=given, when=when, fields=fields
        )
    err.print(f"{tenant.path} is added, with {_names(tenant)}; running workers take it up within seconds")
    err.print(f"if somebody has to sign in for it: [bold]tidelock tenants connect {system} {name}[/bold]")
    err.print(f"records that exist already go there with [bold]tidelock resync --system {system}[/bold]")


@app.command("set")
def change(
    system: System,
    name: Name,
    url: Url = None,
    option: Options = None,
    credential: Credentials = None,
    credential_file: Files = None,
    when: When = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Change what is given of a tenant; of one in the configuration file only credentials. New credentials switch it on."""
    with closing(_Opened(config)) as opened:
        _check(opened.config, system, url, when)
        opened.tenants.get(system, name)
        given = _secrets(credential, credential_file)
        if not (url or option or given or when):
            raise Fatal(
                "nothing is to be changed", hint="give --url, --option, --when, --credential or --credential-file"
            )
        tenant = opened.tenants.change(system, name, url=url, options=_options(option), credentials=given, when=when)
    err.print(f"{tenant.path} is changed; it is {tenant.state}, with {_names(tenant)}")


@app.command("enable")
def enable(system: System, name: Name, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Switch a tenant on, also one that was revoked: its credentials are tried again."""
    with closing(_Opened(config)) as opened:
        opened.tenants.enable(system, name)
    err.print(f"{system}/{name} is on")


@app.command("disable")
def disable(
    system: System,
    name: Name,
    reason: Annotated[str | None, typer.Option(help="Why, for `tidelock tenants ls`.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Switch a tenant off: nothing is read from it or written to it. What is to be written waits."""
    with closing(_Opened(config)) as opened:
        opened.tenants.disable(system, name, reason)
    err.print(f"{system}/{name} is off; [bold]tidelock tenants enable {system} {name}[/bold] switches it on again")


@app.command("remove")
def remove(
    system: System,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Remove a tenant that was added at run time, and its credentials. Its records stay in the hub."""
    with closing(_Opened(config)) as opened:
        opened.tenants.get(system, name)
        if not yes:
            typer.confirm(f"Remove {system}/{name} and its credentials?", abort=True, err=True)
        opened.tenants.remove(system, name)
    err.print(f"{system}/{name} is removed; running workers let go of it within seconds")


@app.command("connect")
def connect(
    system: System,
    name: Name,
    port: Annotated[int, typer.Option(help="Where this command waits for the answer; 0 takes a free one.")] = 8765,
    redirect: Annotated[
        str | None,
        typer.Option(help="The redirect address that the vendor knows, if it is not http://localhost:PORT/callback."),
    ] = None,
    paste: Annotated[
        bool,
        typer.Option("--paste", help="Ask for the address at which the browser ends up, instead of waiting for it."),
    ] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the person.")] = 600.0,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Have somebody sign in at the vendor, and store the refresh token. The address to open is printed on stdout."""
    with closing(_Opened(config)) as opened:
        tenant = opened.tenants.get(system, name)
        vendor = vendor_of(opened.config.systems[system])
        if paste:
            signing = Connecting(tenant, vendor, redirect or f"http://localhost:{port}/callback")
            _tell(signing.url, "copy the address at which the browser ends up")
            answer = query_of(_secret("that address"))
        else:
            with Receiver(port) as receiver:
                signing = Connecting(tenant, vendor, redirect or receiver.redirect)
                _tell(signing.url, f"waiting for the answer at {receiver.redirect}")
                found = receiver.wait(signing.ours, timeout_s)
            if found is None:
                raise Fatal(
                    f"{tenant.path}: nobody has signed in within {timeout_s:g} s",
                    hint="run the command again; if the browser runs on another machine, use --paste",
                )
            answer = found
        opened.tenants.connected(system, name, signing.finish(answer))
    err.print(f"{system}/{name} is connected; running workers go on with it by themselves")


def _tell(url: str, then: str) -> None:
    err.print("open this address in a browser and sign in as the user tidelock is to be there:")
    sys.stdout.write(url + "\n")
    sys.stdout.flush()
    err.print(then)


# ------------------------------------------------------------------------------------------------------- what is given


def _check(config: Config, system: str, url: str | None, when: str | None) -> None:
    """Refuse what workers would stumble over. Raises Fatal."""
    if url is not None and not url.startswith(("https://", "http://")):
        raise Fatal(f"{url!r} is no address of an API", hint="write it as https://host")
    spec = config.systems.get(system)
    if when is None or spec is None:
        return
    for name in [e for e in spec.entities if any(f.entity == e and system in f.to for f in config.flows)]:
        try:
            fields: dict[str, FieldType] = {n: f.type for n, f in config.entities[name].fields.items()}
            compile_condition(when, fields)
        except ValueError as error:
            raise Fatal(f"--when is wrong for entity {name} {error}", hint="for example: country == 'DE'") from error


def _options(given: list[str] | None) -> dict[str, Any]:
    """Read name=value; values are JSON where they can be read so, else texts."""
    out: dict[str, Any] = {}
    for item in given or ():
        name, separator, text = item.partition("=")
        if not separator or not name:
            raise Fatal(f"--option {item!r} is not name=value", hint="for example --option page=100")
        try:
            out[name] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            out[name] = text
    return out


def _fields(given: list[str] | None) -> dict[str, str]:
    """Read name=value; values are taken as they are written, and read as the field's type says."""
    out: dict[str, str] = {}
    for item in given or ():
        name, separator, text = item.partition("=")
        if not separator or not name or not text.strip():
            raise Fatal(f"--field {item!r} is not name=value", hint="for example --field customer=acme")
        out[name] = text
    return out


def _secrets(names: list[str] | None, files: list[str] | None) -> dict[str, str]:
    out = {}
    for item in files or ():
        name, separator, path = item.partition("=")
        if not separator or not name:
            raise Fatal(f"--credential-file {item!r} is not name=path", hint="--credential-file private_key=key.pem")
        try:
            out[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Fatal(f"{path} cannot be read: {error}", hint="name a readable text file") from error
    for name in names or ():
        if "=" in name:
            raise Fatal(
                "--credential takes a name only: what stands on a command line can be read by others on this machine",
                hint=f"--credential {name.partition('=')[0]}, and give the value when it is asked for, or on stdin",
            )
        out[name] = _secret(name)
    return out


def _secret(name: str) -> str:
    """Ask for a value without showing it; from a pipe, take the next line."""
    if sys.stdin.isatty():
        value = typer.prompt(name, hide_input=True, err=True)
    else:
        value = sys.stdin.readline().rstrip("\r\n")
    if not value:
        raise Fatal(
            f"there is no value for {name}", hint="type it when it is asked for, or write a line of it to stdin"
        )
    return str(value)


def _names(tenant: Tenant) -> str:
    return f"credentials {', '.join(sorted(tenant.credentials))}" if tenant.credentials else "no credentials yet"
