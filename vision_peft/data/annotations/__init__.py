"""Lists, labels and splits as the benchmarks publish them."""
