"""The config: one YAML file becomes frozen objects, or a list of every mistake in it.

>>> load(None, {"RT_SERVER_PORT": "8001"}).server.port
8001
"""

from rt.config.channel import Channel, Namespace
from rt.config.client import Client, HttpApi, PersonalChannel, Token
from rt.config.limits import Connections, Limits, RateLimit
from rt.config.load import decode, encode, load, parse
from rt.config.manual import Entry, defaults, describe
from rt.config.page import markdown
from rt.config.problem import ConfigError, Problem
from rt.config.rates import Rate
from rt.config.schema import (
    Config,
    Delivery,
    Drain,
    Internal,
    Pacing,
    Redis,
    RedisTls,
    Server,
    Tenant,
    Tls,
)

__all__ = [
    "Channel",
    "Client",
    "Config",
    "ConfigError",
    "Connections",
    "Delivery",
    "Drain",
    "Entry",
    "HttpApi",
    "Internal",
    "Limits",
    "Namespace",
    "Pacing",
    "PersonalChannel",
    "Problem",
    "Rate",
    "RateLimit",
    "Redis",
    "RedisTls",
    "Server",
    "Tenant",
    "Tls",
    "Token",
    "decode",
    "defaults",
    "describe",
    "encode",
    "load",
    "markdown",
    "parse",
]
