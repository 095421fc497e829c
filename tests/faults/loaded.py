"""Loads what every worker loads, once for all that are forked from the process that imports this."""

from __future__ import annotations

import gc

import cleanfid.resize
import matplotlib.backends.backend_svg
import matplotlib.figure
import neo4j
import open_clip
import peft
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

import matchgraph.cli.runs
import matchgraph.ingest.runs.execution
import matchgraph.ingest.runs.pages

LOADED = (
    AutoencoderKL,
    CLIPTextModel,
    CLIPTokenizer,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    cleanfid.resize,
    matchgraph.cli.runs,
    matchgraph.ingest.runs.execution,
    matchgraph.ingest.runs.pages,
    matplotlib.backends.backend_svg,
    matplotlib.figure,
    neo4j,
    open_clip,
    peft,
    torch,
)

# What is loaded stays, so that no worker's garbage collection looks through it again.
gc.collect()
gc.freeze()
