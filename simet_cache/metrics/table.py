"""The table of metrics."""

from __future__ import annotations

from simet_cache.metrics import fid, kid, precision_recall
from simet_cache.metrics.metric import Metric
from simet_cache.metrics.neighbours import check_k

METRICS: dict[str, Metric] = {
    "fid": Metric(
        summarise=fid.summarise,
        compare=fid.compare,
        direction="lower",
        version=1,
        source="Heusel et al. 2017, https://arxiv.org/abs/1706.08500",
        meaning="distance between the two sets' means and covariances",
        blind_to="everything beyond mean and covariance; biased upward for few rows",
    ),
    "kid": Metric(
        summarise=kid.summarise,
        compare=kid.compare,
        direction="lower",
        version=1,
        source="Binkowski et al. 2018, https://arxiv.org/abs/1801.01401",
        meaning="difference of the two sets' moments up to the third, without bias",
        blind_to="which samples are at fault; noisy for few rows",
    ),
    "precision": Metric(
        summarise=precision_recall.summarise,
        compare=precision_recall.compare_precision,
        direction="higher",
        version=1,
        source="Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991",
        meaning="share of the synthetic set that lies among the real one",
        blind_to="modes that are missing; outliers of the real set make it too high",
        parameters={"k": 3},
        sides=("real",),
        check=check_k,
    ),
    "recall": Metric(
        summarise=precision_recall.summarise,
        compare=precision_recall.compare_recall,
        direction="higher",
        version=1,
        source="Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991",
        meaning="share of the real set that lies among the synthetic one",
        blind_to="quality; outliers of the synthetic set make it too high",
        parameters={"k": 3},
        sides=("synth",),
        check=check_k,
    ),
}
