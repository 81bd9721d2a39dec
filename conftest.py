"""Root of the test configuration; fixtures live beside the tests that use them."""
