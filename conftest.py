"""Root of the test configuration; fixtures live beside the tests that use them."""

# Has to be named at the root; only tests/plugin uses it.
pytest_plugins = ["pytester"]
