"""Loads what every worker loads, once for all that are forked from the process that imports this."""

from __future__ import annotations

import cleanfid.resize
import neo4j
import open_clip
import peft
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

import matchgraph.ingest.runs.execution

LOADED = (
    AutoencoderKL,
    CLIPTextModel,
    CLIPTokenizer,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    cleanfid.resize,
    matchgraph.ingest.runs.execution,
    neo4j,
    open_clip,
    peft,
    torch,
)
