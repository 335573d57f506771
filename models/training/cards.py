"""What a card says of how a network was trained, and of the data that it was trained and scored on."""

from __future__ import annotations

from typing import Any

from models.training.evaluate import TEST_DRIVE

PICTURES = [
    {
        "name": "CamVid train (SegNet split), less the pictures that checkpoints are chosen by",
        "use": "pictures and labels",
        "licence": "research; CC BY-NC 4.0 as the SegNet tutorial distributes it",
    },
    {
        "name": "IDD-Lite",
        "use": "pictures and set-valued labels",
        "licence": "IDD research licence",
    },
]
FRAME_DATA = [
    {"name": "PASCAL VOC2012 train_aug, animals only", "use": "pictures and labels", "licence": "VOC terms"},
]
FRAME_NOTES = [
    "Trained and scored on a part of VOC2012 (pictures of cats, cows, dogs, horses and sheep, some with people, chairs "
    "and sofas, longest side 144): its mean IoU is over the classes that occur, and cannot be compared with published "
    "figures for all 21.",
    "The checkpoint was chosen on pictures of train_aug that were held out from training.",
]
NOTES = [
    "Simulated: trained on events made from pictures under a simulated camera motion, with people and vehicles moving "
    "in front of them, through models/emulator.py. No real event recording was seen in training.",
    "Real: the motion of the test drive (CamVid val, 0016E5 frames 07959 to 08159, 15 Hz). Its events are simulated "
    "all the same. No frame of it was trained on, but it is a part of a drive of which other parts are in CamVid "
    "train; the nearest training picture is one second away.",
    "The checkpoint, and the bias of each class that was added to a streaming network's readout, were chosen on "
    "pictures of CamVid train that were held out from training. Earlier, shorter runs were scored on the test drive, "
    "and their masks looked at, before the settings of this one were fixed.",
    "Weights are derived from data under non-commercial research terms.",
]


def scored_on(data: str, *, of_frames: bool) -> str:
    """What a network was scored on."""
    if of_frames:
        return "VOC2012 val, pictures of animals at their own size"
    if data == TEST_DRIVE:
        return (
            "CamVid-events val: a labelled frame at the end of every second window of 33.3 ms, simulated sensor 346x260"
        )
    return data


def training_card(run: dict[str, Any]) -> dict[str, Any]:
    """What a card says of how a network was trained, and the run that it started from if it did not from scratch."""
    before = run.get("started_from")
    # A shipped network has a card already.
    if before and "settings" not in before:
        before = training_card(before)
    curve = (before["curve"] if before else []) + [
        {
            "update": point["update"] + (before["updates_in_all"] if before else 0),
            "minutes": round(point["minutes"] + (before["minutes_in_all"] if before else 0), 2),
            "miou": point["miou"],
        }
        for point in run["curve"]
    ]
    in_all = {
        "updates_in_all": run["updates_done"] + (before["updates_in_all"] if before else 0),
        "minutes_in_all": round(run["minutes_taken"] + (before["minutes_in_all"] if before else 0), 1),
    }
    return ({"started_from": before} if before else {}) | {
        "command": run["command"],
        "settings": run["config"],
        "updates": run["updates_done"],
        "curve": curve,
        "minutes": run["minutes_taken"],
        **in_all,
        "material": run["data"],
        "held_out": {key: value for key, value in run["held_out"].items() if key != "confusion_matrix"},
        "machine": run["machine"],
        "data": _data(run["data"]),
    }


def notes_of(run: dict[str, Any]) -> list[str]:
    """What a reader of a card should know of a run's data."""
    if "VOC2012 train_aug" in run["data"].get("training_pictures", {}):
        return FRAME_NOTES
    if "training_drives" in run["data"]:
        return ["Real: trained on event recordings; the checkpoint was chosen on others that were held out."]
    return NOTES


def _data(about: dict[str, Any]) -> list[dict[str, str]]:
    if "training_drives" in about:
        return [
            {"name": drive, "use": "events and labels", "licence": "its source's"} for drive in about["training_drives"]
        ]
    return FRAME_DATA if "VOC2012 train_aug" in about["training_pictures"] else PICTURES
