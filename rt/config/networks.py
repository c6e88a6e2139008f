"""A range of addresses as a value of the config."""

from __future__ import annotations

import ipaddress

from rt.config.values import Kind, Unfit


class Network(Kind):
    """An IP address, or all addresses that begin alike (CIDR)."""

    words = "an IP address or a range of them, such as 10.0.0.0/8 or 2001:db8::/32"

    def read(self, text: str) -> str:
        try:
            network = ipaddress.ip_network(text)  # strict: 10.1.2.3/8 is somebody's mistake
        except ValueError:
            raise Unfit from None
        if network.prefixlen == 0:
            raise Unfit  # would trust everybody
        if network.version == 6 and network.network_address.ipv4_mapped:
            raise Unfit  # such an address counts as the IPv4 address that it is, so none would be in it
        return str(network)
