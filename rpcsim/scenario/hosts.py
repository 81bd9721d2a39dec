"""Hosts by role, for scenarios written in Python: `hosts.agent(id="web01")`."""

from rpcsim.scenario._topology import (
    AgentHost,
    BrokerHost,
    ClientHost,
    CustomHost,
    Plugin,
)

__all__ = ["agent", "broker", "client", "custom", "plugin"]

agent = AgentHost
broker = BrokerHost
client = ClientHost
custom = CustomHost
plugin = Plugin
