"""Measure Ayni beside llama.cpp's own programs, in one run on one machine; results are ratios.

`python -m bench` (through `scripts/bench`) builds the peers, writes random-weight models and runs the benchmarks
named. Each benchmark is a module with one `measure` that does things and a pure `summarise` that judges them.
"""
