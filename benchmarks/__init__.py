"""What guidance costs, measured as ratios against code written by hand.

    python -m benchmarks                      # every part, about ten minutes on two cores
    python -m benchmarks steps memory         # two of them
    python -m benchmarks report               # the chart, the tables of docs/performance.md and the bars, from the results

Every part asserts that both sides compute the same before it times them, times them in turn within one process, and writes
`benchmarks/results/<part>.json` with the machine, the versions, the date, the spread and the command.

networks        the networks, decorated and by hand, with shared weights
by_hand         the same conditioning and guidance as one would write it without the library
timing          calls timed in turn, and the spread of their ratios
results         what a part found, where it ran, and the file it goes to
parts           what can be run
"""
