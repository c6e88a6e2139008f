"""docs/config.md, made from the schema and the rules, so that it cannot say anything else than they do."""

from __future__ import annotations

from collections.abc import Iterator

from rt.config import limit_rules, rules, tenant_rules
from rt.config.finding import Rule
from rt.config.manual import Entry, describe
from rt.config.schema import Config
from rt.config.section import keys

_HEAD = """\
# Configuration

<!-- Made by `python server.py defaults --markdown > docs/config.md`; change rt/config/ instead. -->

Everything an operator decides is in one YAML file. A file needs only the keys that it changes; with no file at all
nothing can connect and nothing can be published. `python server.py defaults` prints a file with every key and its
default, `python server.py check FILE` tells what is wrong with one, and `config/` has a file for development and one
for production. Where [Centrifugo](https://centrifugal.dev) has a key of the same name and section, it means the same.

## How values are written

- **Durations** have a unit: `250ms`, `25s`, `5m`, `12h`, `30d`; `1h30m` is understood.
- **Sizes** are bytes, or have a binary unit: `65536`, `64KiB`, `1MiB`.
- **Flags** are `true` or `false`. What YAML 1.1 calls a flag besides (`yes`, `on`, `y`) is refused, and so are numbers
  in octal, hexadecimal, base 60 or scientific form: no value ever means something else than what is read.
- **Anchors, aliases, merge keys and tags** are refused. A value that begins with `*`, `&` or `!` needs quotes.
- **Relative paths** start at the working directory of the server.

## Environment and secret files

- `${NAME}` anywhere in a value takes the environment variable `NAME`. One that is unset or empty is a mistake. `$${`
  is a plain `${`.
- `RT_` and the path of a key in capitals takes the place of that key: `RT_SERVER_PORT=8001` is
  `server: {port: 8001}`. Lists are separated by spaces or commas. The keys of single namespaces and of
  tenants have no variable. A variable whose name begins like that and names no key is a mistake, unless the file uses
  it as `${...}`.
- Every secret or public `key` has a twin `key_file`: the path of a file that holds it, for systemd's `LoadCredential=`
  or a container's mounted secrets. One line end at its end is dropped.

## Mistakes

A config with a mistake is never used: the server does not start (exit status 78), or keeps the config it has (SIGHUP).
All mistakes are told at once, one per line, as file, line, key, what was found and what is allowed. Secrets are not
printed.

```
config/site.yaml:3: server.port: found 80000, expected a whole number from 1 to 65535
config/site.yaml:9: client.pong_timeot: found an unknown key, expected pong_timeout perhaps
```

## Keys
"""

_RULES = """\
## What must hold between keys
"""

_TENANTS = """
## What must hold between tenants

The sections of a tenant are made of the keys that it sets itself and, for all others, of those of the top level; a
list that it sets takes the place of the top level's. All rules above hold for what comes out, for each tenant, and of
the top level only for what a tenant inherits.
"""

_PRODUCTION = """
## What `mode: production` adds
"""


def markdown() -> str:
    """The text of docs/config.md."""
    parts = [
        _HEAD,
        *_tables(),
        _RULES,
        *_sentences(rules.RULES),
        *_sentences(limit_rules.RULES),
        _TENANTS,
        *_sentences(tenant_rules.RULES),
    ]
    return "\n".join([*parts, _PRODUCTION, *_sentences(rules.PRODUCTION), ""])


def _tables() -> Iterator[str]:
    listed = describe()
    for name, key in keys(Config).items():
        yield f"### {name}\n\n{key.sentence}\n\n| key | default | allowed | what it does |\n|---|---|---|---|"
        for entry in listed:
            top, _, path = entry.path.partition(".")
            # A namespace has the keys of without_namespace, which are listed already.
            repeated = path.startswith("namespaces[].") and path != "namespaces[].name"
            if top.removesuffix("[]") == name and path and entry.default and not repeated:
                yield _row(entry._replace(path=path))
        yield ""


def _row(entry: Entry) -> str:
    default = entry.default if not entry.literal else f"`{entry.default}`"
    return f"| `{entry.path}` | {default} | {_cell(entry.kind)} | {_cell(entry.sentence)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _sentences(these: tuple[Rule, ...]) -> Iterator[str]:
    return (f"- {' '.join((rule.__doc__ or '').split())}" for rule in these)
