"""Room under construction."""


def main() -> None:
    """Run the command line."""
