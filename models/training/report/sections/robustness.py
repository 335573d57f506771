"""When sensor or input are off: what the networks keep of their scores."""

from __future__ import annotations

from models.training.report.jobs import Job, robustness_job
from models.training.report.markdown import NOTHING, code, number, percent, picture, table
from models.training.report.networks import FRAMES, STREAMING
from models.training.report.results import Record, Results
from models.training.report.sections.measured import each_measured, job_line, not_measured

HEADER = ("perturbation", "strength in", "strength", "mIoU", "kept", "twin's mIoU", "twin keeps")


def robustness_section(results: Results) -> list[str]:
    """The section's lines."""
    jobs = [robustness_job(name, results.cards) for name in STREAMING]
    return [
        "## When sensor or input are off",
        "",
        "mIoU at the middle of the strengths that were tried, and the share of the unperturbed mIoU that is kept; all "
        "strengths are in the plots and the JSON files. Network and twin see exactly the same events or pictures; an "
        "attack (FGSM) is by each network's own gradients.",
        "",
        *each_measured(results, jobs, lambda name, stored: _perturbed(f"robustness-{name}.png", stored)),
        *_frames(results, jobs[0]),
    ]


def _frames(results: Results, job: Job) -> list[str]:
    """What frame networks keep, which ``job`` measures too."""
    stored = results.frame_robustness()
    if stored is None:
        return not_measured("Frames", results.absent(FRAMES), f"`{job_line(job)}` measures them.")
    return _perturbed("robustness-frames.png", stored)


def _perturbed(file: str, stored: Record) -> list[str]:
    models = stored["models"]
    beside = " and its twin" if models["ann"] else ""
    return [
        f"{code(models['snn'])}{beside} on {stored['data']}:",
        "",
        *picture(f"mIoU of {models['snn']} against the strength of each perturbation", file),
        *table(HEADER, [_row(perturbation) for perturbation in stored["perturbations"]], left=2),
    ]


def _row(perturbation: Record) -> list[str]:
    point = middle_point(perturbation)
    (nominal,) = (p for p in perturbation["points"] if p["strength"] == perturbation["nominal"])
    return [
        perturbation["name"].replace("_", " "),
        perturbation["axis"],
        f"{point['strength']:.4g}",
        *_score_and_share(point["snn"], nominal["snn"]),
        *_score_and_share(point["ann"], nominal["ann"]),
    ]


def _score_and_share(perturbed: Record | None, nominal: Record | None) -> list[str]:
    """A network's mIoU, and the share of the unperturbed one that it keeps."""
    if perturbed is None or nominal is None:
        return [NOTHING, NOTHING]
    base = nominal["miou"]
    return [number(perturbed["miou"]), percent(perturbed["miou"] / base if base else None, 1)]


def middle_point(perturbation: Record) -> Record:
    """Of a perturbation's points the one of the middle strength, or the next if that one changes nothing."""
    points = perturbation["points"]
    middle = len(points) // 2
    if points[middle]["strength"] == perturbation["nominal"]:
        middle += 1
    point: Record = points[middle]
    return point
