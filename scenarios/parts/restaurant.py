"""A restaurant: a waiter on one agent asks a cook on another."""

from __future__ import annotations

from rpcsim.agents import Agent, remote


class OutOfStock(Exception):
    """The kitchen has no more of a dish.

    Args:
        dish: What was asked for.
    """

    def __init__(self, dish: str) -> None:
        super().__init__(f"no more {dish}")
        self.dish = dish


class Cook:
    """Runs in the kitchen."""

    @remote
    def cook(self, dish: str, portions: int = 1) -> dict[str, object]:
        """Cook a dish; soup is out."""
        if dish == "soup":
            raise OutOfStock(dish)
        return {"dish": dish, "portions": portions, "plates": ["warm"] * portions}


class Waiter:
    """Runs in the dining room and passes orders on to the kitchen."""

    @remote
    def order(self, dish: str, portions: int = 1) -> dict[str, object]:
        """Have the kitchen cook, and bring it: a remote call out of a remote call."""
        cooked = Agent("kitchen", timeout=(1, 2)).Cook().cook(dish, portions=portions)
        return {"served": cooked["dish"], "for": cooked["portions"]}

    @remote
    async def price(self, dish: str) -> int:
        """Tell a price, in a coroutine."""
        return 7 * len(dish)
