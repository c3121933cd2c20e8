"""Which cases of the matrix this run collects; the top conftest.py sets it before any test file is imported."""

whole = True  # False: only the cases that are marked ``cover``, as nothing else of the matrix was asked for
