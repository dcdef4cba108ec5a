"""CrowS-Pairs: is the more stereotypical sentence of a pair the likelier one, by type of bias?

Nangia et al., EMNLP 2020 (aclanthology.org/2020.emnlp-main.154). 0.5 is no preference; there is no
right answer. The task is `wrapped_tasks.CrowsPairs`, around lm-eval's own.
"""

from mergekit_fair.fairness.benchmark import Benchmark, mean_of

BENCHMARK = Benchmark(
    "crows_pairs",
    (
        mean_of(
            "pct_stereotype",
            "stereotypical sentence preferred",
            better="half",
            by_group=True,
            range_title="range of preference over types of bias",
        ),
    ),
    group_title="type of bias",
)
