"""The numbers of the paper's tables, typed from it as printed.

The plain text at hand has lost the check marks of Tables 1 to 4. The flags of the column "w/ saliency" follow the order of
each list, which names methods with saliency first, and are left open where two tables disagree (ReCAM); the lines of
Table 4 are told apart by their order and by the text around them.
"""

from dataclasses import dataclass
from typing import Any

from acr.datasets.classes import COCO, VOC

CLASS = "iou_"  # before the name of a class, so that a class named "scales" is not taken for another column


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper: the methods that it lists, each with its numbers; IoU in percent."""

    title: str
    dataset: str | None  # that the numbers are measured on; None where they depend on none
    columns: tuple[str, ...]  # what follows the name of a method: columns of acr.tables, or CLASS and a class
    methods: tuple[tuple[Any, ...], ...]  # name, then one value for each column; None: not known
    note: str = ""

    def rows(self) -> list[dict[str, Any]]:
        """The methods as rows with the keys method, source (paper) and `columns`; flags are yes or no."""
        head, flags = ("source", "method", *self.columns), {True: "yes", False: "no", None: None}
        rows = [dict(zip(head, ("paper", *method), strict=True)) for method in self.methods]
        return [row | ({"saliency": flags[row["saliency"]]} if "saliency" in row else {}) for row in rows]

    def remarks(self, dataset: str) -> list[str]:
        """What must be known to compare its numbers with others that are measured on `dataset`, in sentences."""
        sentences = [self.note] if self.note else []
        if self.dataset == dataset:
            return [*sentences, "Compare rows only where split and number of ground truth images agree."]
        if self.dataset is None:
            return sentences
        return [
            *sentences,
            f"Our rows are measured on {dataset}, the paper's on {self.dataset}: the paper's numbers stand here for reference "
            "only and cannot be compared.",
        ]


# Table 11 as printed, a class a line: MCTformer, RIB, ours
COCO_CLASSES = {
    "background": (82.4, 82.0, 82.7),
    "person": (62.6, 56.1, 47.0),
    "bicycle": (47.4, 52.1, 50.4),
    "car": (47.2, 43.6, 44.6),
    "motorcycle": (63.7, 67.6, 68.4),
    "airplane": (64.7, 61.3, 70.2),
    "bus": (64.5, 68.5, 71.1),
    "train": (64.5, 51.3, 56.4),
    "truck": (44.8, 38.1, 37.6),
    "boat": (42.3, 42.3, 37.1),
    "traffic_light": (49.9, 47.8, 37.4),
    "fire_hydrant": (73.2, 73.4, 74.9),
    "stop_sign": (76.6, 76.3, 65.2),
    "parking_meter": (64.4, 68.3, 50.8),
    "bench": (32.8, 39.7, 43.1),
    "bird": (62.6, 57.5, 60.2),
    "cat": (78.2, 72.4, 78.4),
    "dog": (68.2, 63.5, 72.0),
    "horse": (65.8, 63.6, 67.5),
    "sheep": (70.1, 69.1, 70.4),
    "cow": (68.3, 68.3, 71.4),
    "elephant": (81.6, 79.5, 81.2),
    "bear": (80.1, 76.7, 82.7),
    "zebra": (83.0, 80.2, 82.1),
    "giraffe": (76.9, 74.1, 76.2),
    "backpack": (14.6, 18.1, 13.3),
    "umbrella": (61.7, 60.1, 64.4),
    "handbag": (4.5, 8.6, 8.2),
    "tie": (25.2, 28.6, 27.1),
    "suitcase": (46.8, 49.2, 48.3),
    "frisbee": (43.8, 53.6, 57.0),
    "skis": (12.8, 9.7, 14.1),
    "snowboard": (31.4, 29.4, 23.7),
    "sports_ball": (9.2, 38.0, 21.5),
    "kite": (26.3, 37.1, 47.1),
    "baseball_bat": (0.9, 15.3, 11.0),
    "baseball_glove": (0.7, 8.1, 7.1),
    "skateboard": (7.8, 31.8, 26.0),
    "surfboard": (46.5, 29.2, 38.6),
    "tennis_racket": (1.4, 48.9, 21.0),
    "bottle": (31.1, 33.1, 38.5),
    "wine_glass": (27.0, 27.5, 48.2),
    "cup": (29.0, 27.4, 42.6),
    "fork": (13.9, 15.9, 12.6),
    "knife": (12.0, 14.3, 16.1),
    "spoon": (6.6, 8.2, 9.5),
    "bowl": (22.4, 20.7, 26.5),
    "banana": (63.2, 59.8, 64.3),
    "apple": (44.4, 48.5, 48.5),
    "sandwich": (39.7, 36.9, 51.0),
    "orange": (63.0, 62.5, 63.1),
    "broccoli": (51.2, 45.4, 53.8),
    "carrot": (40.0, 34.6, 44.3),
    "hot_dog": (53.0, 49.7, 52.1),
    "pizza": (62.2, 58.9, 79.3),
    "donut": (55.7, 53.1, 65.5),
    "cake": (47.9, 40.7, 52.6),
    "chair": (22.8, 20.6, 18.7),
    "couch": (35.0, 36.8, 39.9),
    "potted_plant": (13.5, 17.0, 22.5),
    "bed": (48.6, 46.2, 51.0),
    "dining_table": (12.9, 11.6, 19.6),
    "toilet": (63.1, 63.9, 65.7),
    "tv": (47.9, 39.7, 50.7),
    "laptop": (49.5, 48.2, 54.6),
    "mouse": (13.4, 22.4, 11.8),
    "remote": (41.9, 38.0, 37.4),
    "keyboard": (49.8, 50.9, 53.5),
    "cell_phone": (54.1, 54.1, 53.2),
    "microwave": (38.0, 45.2, 46.7),
    "oven": (29.9, 35.9, 32.7),
    "toaster": (0.0, 17.8, 0.0),
    "sink": (28.0, 33.0, 30.4),
    "refrigerator": (40.1, 46.0, 32.9),
    "book": (32.2, 31.1, 33.2),
    "clock": (43.2, 41.9, 52.6),
    "vase": (22.6, 27.5, 31.4),
    "scissors": (32.9, 41.0, 42.4),
    "teddy_bear": (61.9, 62.0, 60.3),
    "hair_drier": (0.0, 16.7, 0.0),
    "toothbrush": (11.1, 21.0, 31.0),
    "miou": (42.0, 43.8, 45.0),
}

PAPER = {
    "figure_1": PaperTable(
        title="Figure 1: the classifiers it compares, by their seeds on PASCAL VOC 2012 train (mIoU, %)",
        dataset="voc12",
        columns=(),
        methods=(),
        note="The paper shows pictures. SEAM* is not defined there: here consistency of the class maps of patch tokens, whose "
        "means learn the tags, without consistency of attention.",
    ),
    "table_1": PaperTable(
        title="Table 1: segmentation on MS COCO 2014 (mIoU, %)",
        dataset="coco14",
        columns=("venue", "saliency", "val"),
        methods=(
            ("AuxSegNet", "ICCV2021", True, 33.9),
            ("EPS", "CVPR2022", True, 35.7),
            ("L2G", "CVPR2022", True, 44.2),
            ("Wang et al.", "IJCV2020", False, 27.7),
            ("Ru et al.", "CVPR2022", False, 38.9),
            ("SEAM", "CVPR2020", False, 31.9),
            ("CONTA", "NeurIPS2020", False, 32.8),
            ("CDA", "ICCV2021", False, 33.2),
            ("Ru et al.", "IJCV2022", False, 36.2),
            ("URN", "AAAI2022", False, 41.5),
            ("MCTformer", "CVPR2022", False, 42.0),
            ("ESOL", "NeurIPS2022", False, 42.6),
            ("SIPE", "CVPR2022", False, 43.6),
            ("RIB", "NeurIPS2020", False, 43.8),
            ("ACR", "", False, 45.0),
        ),
    ),
    "table_2": PaperTable(
        title="Table 2: seeds and pseudo labels on PASCAL VOC 2012 train (mIoU, %)",
        dataset="voc12",
        columns=("venue", "saliency", "seed", "pseudo"),
        methods=(
            ("EDAM", "CVPR2021", True, 52.8, 68.1),
            ("ReCAM", "CVPR2022", None, 54.8, 70.9),
            ("L2G", "CVPR2022", True, 56.2, 71.9),
            ("EPS", "ECCV2020", True, 69.4, 71.6),
            ("Du et al., with saliency", "CVPR2022", True, 70.5, 73.3),
            ("PSA", "CVPR2018", False, 48.0, 61.0),
            ("SEAM", "CVPR2020", False, 55.4, 63.6),
            ("CDA", "ICCV2021", False, 55.4, 67.7),
            ("AdvCAM", "CVPR2021", False, 55.6, 68.0),
            ("CPN", "ICCV2021", False, 57.4, 67.8),
            ("Ru et al.", "CVPR2022", False, None, 68.7),
            ("SIPE", "CVPR2022", False, 58.6, None),
            ("Du et al.", "CVPR2022", False, 61.5, 69.2),
            ("MCTformer", "CVPR2022", False, 61.7, 69.1),
            ("ACR*", "", False, 59.4, None),
            ("ACR", "", False, 67.3, 70.8),
        ),
        note="ACR* is without affinity refinement. Counted are the 1464 images of VOC's own train; the paper prints 1,446.",
    ),
    "table_3": PaperTable(
        title="Table 3: segmentation on PASCAL VOC 2012 val and test (mIoU, %)",
        dataset="voc12",
        columns=("venue", "saliency", "val", "test"),
        methods=(
            ("NSRM", "CVPR2021", True, 70.4, 70.2),
            ("EDAM", "CVPR2021", True, 70.9, 70.6),
            ("EPS", "CVPR2021", True, 71.0, 71.8),
            ("DRS", "AAAI2021", True, 71.2, 71.4),
            ("L2G", "CVPR2022", True, 72.1, 71.7),
            ("Du et al., with saliency", "CVPR2022", True, 72.6, 73.6),
            ("PSA", "CVPR2018", False, 61.7, 63.7),
            ("SEAM", "CVPR2020", False, 64.5, 65.7),
            ("CDA", "ICCV2021", False, 66.1, 66.8),
            ("ECS-Net", "ICCV2021", False, 66.6, 67.6),
            ("Du et al.", "CVPR2022", False, 67.7, 67.4),
            ("CPN", "ICCV2021", False, 67.8, 68.5),
            ("AdvCAM", "CVPR2021", False, 68.1, 68.0),
            ("Kweon et al.", "ICCV2021", False, 68.4, 68.2),
            ("ReCAM", "CVPR2022", None, 68.5, 68.4),
            ("SIPE", "CVPR2022", False, 68.8, 69.7),
            ("URN", "AAAI2022", False, 69.5, 69.7),
            ("ESOL", "NeurIPS2022", False, 69.9, 69.3),
            ("PMM", "ICCV2021", False, 70.0, 70.5),
            ("MCTformer", "CVPR2022", False, 70.6, 70.3),
            ("VWL-L", "IJCV2022", False, 70.6, 70.7),
            ("Lee et al.", "CVPR2022", False, 70.7, 70.1),
            ("ACR", "", False, 71.2, 70.9),
        ),
        note="MCTformer's row is the ACR authors' reproduction; it reports 71.9 on val and 71.7 on test. The paper counts "
        "the 1449 images of VOC's val.",
    ),
    "table_4": PaperTable(
        title="Table 4: seeds with neither, one and both consistency terms on PASCAL VOC 2012 train (mIoU, %)",
        dataset="voc12",
        columns=("seed", "refined"),
        methods=(
            ("none", 51.1, 57.7),
            ("activation", 54.8, 63.5),
            ("affinity", 55.4, 64.9),
            ("both", 59.4, 67.3),
        ),
        note="Which terms a line of the paper has is inferred from the order of its lines: its tick marks are lost in the "
        "text at hand.",
    ),
    "table_5": PaperTable(
        title="Table 5: ways to make seeds of one network on PASCAL VOC 2012 train (mIoU, %)",
        dataset="voc12",
        columns=("seed",),
        methods=(
            ("CAM", 44.0),
            ("TS-CAM", 40.1),
            ("Grad-CAM", 50.5),
            ("Generic", 52.5),
            ("Generic + affinity", 59.6),
            ("ACR", 67.3),
        ),
        note="Each method reads the layers that it was published with: TS-CAM and Generic all of them, Grad-CAM, carried over "
        "to attention, the last one; CAM is the classifier's weights on every patch token. Generic + affinity takes the "
        "affinity of the layers that it reads, where the recipe of ACR names no others.",
    ),
    "table_6": PaperTable(
        title="Table 6: seeds of DeiT-S on PASCAL VOC 2012 train (mIoU, %)",
        dataset="voc12",
        columns=("backbone", "seed", "refined"),
        methods=(
            ("MCTformer", "DeiT-S", 58.2, 61.7),
            ("MCTformer + ACR", "DeiT-S", 60.4, 62.4),
            ("ACR", "DeiT-S", 56.8, 63.4),
        ),
        note="MCTformer has a token for each class. For MCTformer + ACR, the activation that is compared between views is the "
        "mean of the class tokens' attention to the patches, the affinity that of the patches among themselves. All our rows "
        "share the optimiser and schedule of the preset's classifier, which are not those MCTformer was published with.",
    ),
    "table_7": PaperTable(
        title="Table 7: refined seeds by the view that training compares with on PASCAL VOC 2012 train (mIoU, %)",
        dataset="voc12",
        columns=("seed",),
        methods=(
            ("none", 57.7),
            ("resize", 59.2),
            ("rotation", 61.1),
            ("horizontal flip + resize", 61.6),
            ("horizontal flip + vertical flip", 63.6),
            ("horizontal flip + patch hiding", 65.8),
            ("horizontal flip + grey scale", 63.8),
            ("horizontal flip", 67.3),
        ),
        note="Two views with a plus are taken one after the other; the paper may also mean that one of them is drawn. A "
        "rotation is one of the three quarter turns, a resize changes the sides of the grid by up to 30 %, hiding takes a "
        "fifth of the patches.",
    ),
    "table_8": PaperTable(
        title="Table 8: refined seeds by the distance of the consistency terms on PASCAL VOC 2012 train (mIoU, %)",
        dataset="voc12",
        columns=("seed",),
        methods=(("L2", 62.5), ("smooth L1", 62.5), ("L1", 67.3)),
        note="Attentions differ by less than 1, where smooth L1 is half of L2: these two differ by a factor on alpha and beta.",
    ),
    "table_9": PaperTable(
        title="Table 9: training memory (MB) and seeds a second",
        dataset=None,
        columns=("backbone", "resolution", "memory", "speed"),
        methods=(
            ("PSA", "ResNet38", "384", 3082, 0.98),
            ("MCTformer", "DeiT-S", "224", 1500, 7.10),
            ("ACR, DeiT-S", "DeiT-S", "224", 1580, 3.61),
            ("ACR, ViT-hybrid-B", "ViT-hybrid-B", "384", 5260, 2.33),
        ),
        note="The paper's numbers are of an RTX 2080 Ti with a batch of 1. Ours: the peak of some training steps with the "
        "recipe's optimiser and the batch of the cost recipe, each image with its view, networks, gradients and moments "
        "included, on a GPU as torch counts it, on a CPU as what the process grew by; and the median over photographs that "
        "are read and localised one by one. Weights are random.",
    ),
    "table_10": PaperTable(
        title="Table 10: segmentation of each class on PASCAL VOC 2012 val (IoU, %)",
        dataset="voc12",
        columns=(*(f"{CLASS}{name}" for name in ("background", *VOC)), "miou"),
        methods=(
            (
                *("CPN", 89.9, 75.1, 32.9, 87.8, 60.9, 69.5, 87.7, 79.5, 89.0, 28.0, 80.9),
                *(34.8, 83.4, 79.7, 74.7, 66.9, 56.5, 82.7, 44.9, 73.1, 45.7, 67.8),
            ),
            (
                *("Kweon et al.", 90.2, 82.9, 35.1, 86.8, 59.4, 70.6, 82.5, 78.1, 87.4, 30.1, 79.4),
                *(45.9, 83.1, 83.4, 75.7, 73.4, 48.1, 89.3, 42.7, 60.4, 52.3, 68.4),
            ),
            (
                *("ACR", 91.5, 85.2, 39.7, 85.8, 60.4, 77.0, 87.4, 80.1, 87.9, 30.3, 84.2),
                *(50.7, 83.5, 85.8, 74.1, 73.5, 59.7, 83.8, 45.1, 72.5, 55.5, 71.2),
            ),
        ),
        note="The IoU that the paper prints of ACR's classes have a mean of 71.13.",
    ),
    "table_11": PaperTable(
        title="Table 11: segmentation of each class on MS COCO 2014 val (IoU, %)",
        dataset="coco14",
        columns=(*(f"{CLASS}{name}" for name in ("background", *COCO)), "miou"),
        methods=tuple(zip(("MCTformer", "RIB", "ACR"), *COCO_CLASSES.values(), strict=True)),
    ),
}


def _printed(table: str, column: str, method: str = "ACR") -> float:
    return next(row[column] for row in PAPER[table].rows() if row["method"] == method)


# what a whole run is asked for first: what the paper prints of ACR on each data set
HEADLINE = {
    "voc12": {
        "unrefined seeds": _printed("table_2", "seed", "ACR*"),
        "refined seeds": _printed("table_2", "seed"),
        "pseudo labels": _printed("table_2", "pseudo"),
        "masks": _printed("table_3", "val"),
    },
    "coco14": {"masks": _printed("table_1", "val")},
}
