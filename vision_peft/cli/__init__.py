"""The command line: one module a verb, each `main(argv) -> int`; main.py and files with a leading _ are none."""
