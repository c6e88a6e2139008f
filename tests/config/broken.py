"""Broken files, each with the one line that it must give."""

from __future__ import annotations

from rt.config import Namespace
from rt.config.channel import NAMESPACE_NAME
from rt.config.section import keys

SET = "a variable that is set, or $${ for a plain ${"
READABLE = "a readable file with a secret in UTF-8"
SECTIONS = "server, redis, client, http_api, delivery, channel, limits, tenants"
DURATION = "such as 300s, 5m or 250ms"
SIZE = "such as 64KiB, 1MiB or a number of bytes"
PORT = "a whole number from 1 to 65535"
NAMED = f"expected {NAMESPACE_NAME.words}"
OPTIONS = ", ".join(name for name in keys(Namespace) if name != "name")
ADDRESS = 'an IPv4 or IPv6 address (IPv6 in quotes), localhost, or "" for all addresses'
SPELLED = "the value itself, in quotes if it begins with *, & or !"
URL = "embedded, redis://host:port/db, rediss://host:port/db or unix:///path?db=0"
HTTP_URL = 'an http:// or https:// URL of printable ASCII, without a user or a fragment, or ""'
REGEX = 'a regular expression of at most 1024 characters, or ""'
ORIGIN = 'scheme://host or scheme://host:port without a path ("*" may stand in the host), "*" or "null"'

BROKEN = [
    # What is not a tree of keys.
    ("server:\n\tport: 8000\n", "f:2: found a tab, expected spaces for indentation"),
    ("- server\n", "f:1: found a list, expected keys such as server: at the top"),
    ("server\n", "f:1: found a single value, expected keys such as server: at the top"),
    ("server: {}\n---\nredis: {}\n", "f:2: found a second document, expected one document in the file"),
    (
        "server: {port: 8000\n",
        "f:2: found text that is not YAML (expected ',' or '}', but got '<stream end>'), expected valid YAML",
    ),
    ("redis: {url: \x07}\n", "f:1: found the character U+0007, expected printable text"),
    ("a: " + "[" * 20, "f:1: found more than 16 levels, expected a flatter file"),
    # Keys.
    ("servr: {}\n", "f:1: servr: found an unknown key, expected server perhaps"),
    ("zz: {}\n", f"f:1: zz: found an unknown key, expected one of {SECTIONS}"),
    ("server:\n  prot: 8000\n", "f:2: server.prot: found an unknown key, expected port perhaps"),
    (
        "server:\n  port: 8000\n  port: 8001\n",
        "f:3: server.port: found the key a second time (first on line 2), expected each key once",
    ),
    ("server: {}\nserver: {}\n", "f:2: server: found the key a second time (first on line 1), expected each key once"),
    ("on: {}\n", f"f:1: on: found an unknown key, expected one of {SECTIONS}"),
    ("8000: {}\n", f"f:1: 8000: found an unknown key, expected one of {SECTIONS}"),
    ("? [server]\n: {}\n", "f:1: found a list or a section as a key, expected a name as the key"),
    (
        "channel:\n  without_namespace:\n    name: a-b\n",
        f"f:3: channel.without_namespace.name: found an unknown key, expected one of {OPTIONS}",
    ),
    # Aliases and their kin.
    ("server: &a {port: 8000}\n", f"f:1: server: found an anchor (&name), expected {SPELLED}"),
    ("server: {port: *a}\n", f"f:1: server.port: found an alias (*name), expected {SPELLED}"),
    ("server:\n  port: !!int 8000\n", f"f:2: server.port: found a tag (!name), expected {SPELLED}"),
    ("server: !!python/object/apply:os.abort []\n", f"f:1: server: found a tag (!name), expected {SPELLED}"),
    # Shapes.
    ("server: 8000\n", "f:1: server: found a single value, expected a section with keys"),
    ("server:\n  - port: 8000\n", "f:2: server: found a list, expected a section with keys"),
    ("server:\n  port: {a: 1}\n", f"f:2: server.port: found a section, expected {PORT}"),
    ("server:\n  port:\n", f"f:2: server.port: found nothing, expected {PORT}"),
    ("server:\n  port: ~\n", f"f:2: server.port: found nothing, expected {PORT}"),
    (
        "client:\n  allowed_origins: https://a.com\n",
        "f:2: client.allowed_origins: found a single value, expected a list",
    ),
    ("channel:\n  namespaces: {name: chat}\n", "f:2: channel.namespaces: found a section, expected a list"),
    (
        "channel:\n  namespaces:\n    - chat\n",
        "f:3: channel.namespaces[0]: found a single value, expected a section with keys",
    ),
    # Numbers.
    ("server: {port: 0}\n", f"f:1: server.port: found 0, expected {PORT}"),
    ("server: {port: -1}\n", f"f:1: server.port: found -1, expected {PORT}"),
    ("server: {port: 65536}\n", f"f:1: server.port: found 65536, expected {PORT}"),
    (f"server: {{port: {2**63}}}\n", f"f:1: server.port: found {2**63}, expected {PORT}"),
    ("server: {port: 8000.0}\n", f"f:1: server.port: found 8000.0, expected {PORT}"),
    ("server: {port: 8e3}\n", f"f:1: server.port: found 8e3, expected {PORT}"),
    ("server: {port: .nan}\n", f"f:1: server.port: found .nan, expected {PORT}"),
    ("server: {port: .inf}\n", f"f:1: server.port: found .inf, expected {PORT}"),
    ("server: {port: true}\n", f"f:1: server.port: found true, expected {PORT}"),
    ("server: {port: 010}\n", f"f:1: server.port: found 010, expected {PORT}"),
    ("server: {port: 0x1F40}\n", f"f:1: server.port: found 0x1F40, expected {PORT}"),
    ("server: {port: 1_000}\n", f"f:1: server.port: found 1_000, expected {PORT}"),
    ("server: {port: 133:20}\n", f"f:1: server.port: found 133:20, expected {PORT}"),
    ('server: {port: "8000"}\n', f"f:1: server.port: found 8000 in quotes, expected {PORT}, without quotes"),
    ("server: {workers: 0}\n", "f:1: server.workers: found 0, expected a whole number from 1 to 1024, or auto"),
    ("delivery: {pacing: {factor: .nan}}\n", "f:1: delivery.pacing.factor: found .nan, expected a number from 1 to 10"),
    (
        "limits: {connections: {new_per_second: -1}}\n",
        "f:1: limits.connections.new_per_second: found -1, expected a number from 0 to 1000000",
    ),
    # Flags and words.
    ("server: {http: slow}\n", "f:1: server.http: found slow, expected fast or tornado"),
    ("server: {demo: yes}\n", "f:1: server.demo: found yes, expected true or false"),
    ("server: {demo: on}\n", "f:1: server.demo: found on, expected true or false"),
    ("server: {demo: 1}\n", "f:1: server.demo: found 1, expected true or false"),
    ('server: {demo: "true"}\n', "f:1: server.demo: found true in quotes, expected true or false, without quotes"),
    ("server: {mode: prod}\n", "f:1: server.mode: found prod, expected development or production"),
    (
        "channel: {without_namespace: {publication_data_format: binary}}\n",
        "f:1: channel.without_namespace.publication_data_format: found binary, "
        'expected "", json or json_object (binary needs a protocol this server does not speak)',
    ),
    # Durations and sizes.
    (
        "client:\n  ping_interval: 25\n",
        f"f:2: client.ping_interval: found 25, expected a duration from 100ms to 1h, {DURATION}",
    ),
    (
        "client:\n  ping_interval: 1:30\n",
        f"f:2: client.ping_interval: found 1:30, expected a duration from 100ms to 1h, {DURATION}",
    ),
    (
        "client:\n  ping_interval: -5s\n",
        f"f:2: client.ping_interval: found -5s, expected a duration from 100ms to 1h, {DURATION}",
    ),
    (
        "client:\n  ping_interval: 2h\n",
        f"f:2: client.ping_interval: found 2h, expected a duration from 100ms to 1h, {DURATION}",
    ),
    (
        "delivery:\n  send_buffer: 64KB\n",
        f"f:2: delivery.send_buffer: found 64KB, expected a size from 4KiB to 16MiB, {SIZE}",
    ),
    (
        "delivery:\n  send_buffer: 1\n",
        f"f:2: delivery.send_buffer: found 1, expected a size from 4KiB to 16MiB, {SIZE}",
    ),
    # Addresses, origins, URLs, names.
    ("server: {address: example.com}\n", f"f:1: server.address: found example.com, expected {ADDRESS}"),
    (
        "client:\n  allowed_origins:\n    - https://a.com\n    - https://b.com/\n",
        f"f:4: client.allowed_origins[1]: found https://b.com/, expected {ORIGIN}",
    ),
    (
        "client: {allowed_origins: [example.com]}\n",
        f"f:1: client.allowed_origins[0]: found example.com, expected {ORIGIN}",
    ),
    ("redis: {url: http://store}\n", f"f:1: redis.url: found another text, expected {URL}"),
    ("redis: {prefix: 'a{b}'}\n", 'f:1: redis.prefix: found "a{b}", expected 1 to 32 letters, digits, dots, - or _'),
    (
        "client: {token: {jwks_public_endpoint: 'ftp://a/keys'}}\n",
        f"f:1: client.token.jwks_public_endpoint: found another text, expected {HTTP_URL}",
    ),
    (
        "client: {token: {rsa_public_key: abc}}\n",
        "f:1: client.token.rsa_public_key: found another text, "
        'expected an RSA public key of at least 2048 bits in PEM, or ""',
    ),
    (
        "client: {token: {issuer_regex: '('}}\n",
        f'f:1: client.token.issuer_regex: found "(", expected {REGEX}',
    ),
    (
        "channel: {without_namespace: {channel_regex: '[[a]'}}\n",
        f'f:1: channel.without_namespace.channel_regex: found "[[a]", expected {REGEX}',
    ),
    (
        "client: {token: {user_id_claim: a.b}}\n",
        "f:1: client.token.user_id_claim: found a.b, expected at most 64 letters and _",
    ),
    ("channel:\n  namespaces:\n    - name: a\n", f"f:3: channel.namespaces[0].name: found a, {NAMED}"),
    ("channel:\n  namespaces:\n    - history_size: 1\n", f"f:3: channel.namespaces[0].name: found nothing, {NAMED}"),
    ("channel:\n  namespaces: [{name: 'a:b'}]\n", f"f:2: channel.namespaces[0].name: found a:b, {NAMED}"),
    ('redis: {state_dir: "a\\nb"}\n', "f:1: redis.state_dir: found text with control characters, expected a path"),
    ('redis: {state_dir: "\\ud800"}\n', "f:1: redis.state_dir: found text that is not Unicode, expected a path"),
    # Variables.
    ("http_api:\n  key: ${NOPE}\n", "f:2: http_api.key: found the unset variable ${NOPE}, expected " + SET),
    ("http_api:\n  key: ${EMPTY}\n", "f:2: http_api.key: found the empty variable ${EMPTY}, expected " + SET),
    ("http_api:\n  key: a${b c}d\n", "f:2: http_api.key: found ${ without a variable's name and }, expected " + SET),
    # Files.
    (
        "http_api:\n  key_file: /nowhere/key\n",
        "f:2: http_api.key_file: found a file that cannot be read (No such file or directory), expected " + READABLE,
    ),
    (
        "http_api:\n  key_file: /dev/zero\n",
        "f:2: http_api.key_file: found a file that cannot be read (not a regular file), expected " + READABLE,
    ),
    (
        "http_api:\n  key: a\n  key_file: b\n",
        "f:3: http_api.key_file: found both key and key_file, expected one of them",
    ),
    (
        "client: {token: {rsa_public_key_file: /dev/null}}\n",
        "f:1: client.token.rsa_public_key_file: found a file that cannot be read (not a regular file), "
        "expected a readable file with a public key in UTF-8",
    ),
    ("server:\n  tls:\n    cert_file: /nowhere/c\n", "f:3: server.tls.key_file: found nothing, expected a path"),
]
