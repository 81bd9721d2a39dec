"""Small scenarios the tests start from."""

GOOD = """\
rpcsim: 1
name: small
topology:
  hosts:
    mq: {role: broker}
    web: {role: agent, plugins: [{module: "scenarios.parts.kennel:Dog"}]}
    desk: {role: client}
workload:
  clients:
    ann:
      host: desk
      steps:
        - {id: a, agent.call: {to: web, method: Dog.bark, args: [hi], timeout: 1s}, expect: {value: hi woof}}
"""


def with_steps(*steps: str, more: str = "") -> str:
    """Give the good scenario with other steps of its one client."""
    head = GOOD[: GOOD.index("        - {id: a")]
    return head + "".join(f"        - {step}\n" for step in steps) + more
