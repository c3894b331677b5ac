"""Configurations of PyTorch Connectomics v1 as those that come with it for MitoEM."""

import yaml

BASE = """
SYSTEM: {NUM_GPUS: 4, NUM_CPUS: 16}
MODEL:
  ARCHITECTURE: unet_plus_3d
  BLOCK_TYPE: residual_se
  INPUT_SIZE: [17, 225, 225]
  OUTPUT_SIZE: [17, 225, 225]
  NORM_MODE: sync_bn
  FILTERS: [32, 64, 96, 128, 160]
DATASET:
  IMAGE_NAME: [im_train.json]
  LABEL_NAME: [mito_train.json]
  INPUT_PATH: data
  OUTPUT_PATH: outputs/
  PAD_SIZE: [4, 64, 64]
  DO_CHUNK_TITLE: 1
  DATA_CHUNK_NUM: [4, 8, 8]
  DATA_CHUNK_ITER: 10000
SOLVER:
  LR_SCHEDULER_NAME: WarmupCosineLR
  BASE_LR: 0.04
  ITERATION_STEP: 1
  ITERATION_SAVE: 5000
  ITERATION_TOTAL: 150000
  SAMPLES_PER_BATCH: 2
INFERENCE:
  INPUT_SIZE: [17, 257, 257]
  OUTPUT_SIZE: [17, 257, 257]
  IMAGE_NAME: im_test.json
  OUTPUT_NAME: result
  PAD_SIZE: [4, 64, 64]
  AUG_MODE: mean
  AUG_NUM: 4
  STRIDE: [8, 128, 128]
  SAMPLES_PER_BATCH: 8
"""

BCE, DICE, MSE = "WeightedBCEWithLogitsLoss", "DiceLoss", "WeightedMSE"
LOSS_ACT = {BCE: "none", DICE: "sigmoid", MSE: "tanh"}
RECIPES = {
    "a": (3, ["2"], [[BCE]], [[1.0]], [["1"]], ["sigmoid"]),
    "ac": (
        4,
        ["2", "4-1-1"],
        [[BCE], [BCE, DICE]],
        [[1.0], [1.0, 0.5]],
        [["1"], ["1", "0"]],
        ["sigmoid", "sigmoid"],
    ),
    "bc": (
        2,
        ["0", "4-1-1"],
        [[BCE, DICE], [BCE, DICE]],
        [[1.0, 0.5], [1.0, 0.5]],
        [["1", "0"], ["1", "0"]],
        ["sigmoid", "sigmoid"],
    ),
    "bcd": (
        3,
        ["0", "4-1-1", "6"],
        [[BCE, DICE], [BCE, DICE], [MSE]],
        [[1.0, 0.5], [1.0, 0.5], [5.0]],
        [["1", "0"], ["1-1", "0"], ["0"]],
        ["sigmoid", "sigmoid", "tanh"],
    ),
}
"""Planes, targets, losses, their factors and weights, and what the network's outputs go through."""


def override(planes, targets, losses, factors, weights, acts):
    """The tree of a recipe, to follow `BASE`."""
    model = {
        "OUT_PLANES": planes,
        "TARGET_OPT": targets,
        "LOSS_OPTION": losses,
        "LOSS_WEIGHT": factors,
        "WEIGHT_OPT": weights,
        "OUTPUT_ACT": [[LOSS_ACT.get(loss, "none") for loss in own] for own in losses],
    }
    return {"MODEL": model, "INFERENCE": {"OUTPUT_ACT": acts}}


BC = yaml.safe_dump(override(*RECIPES["bc"]))
