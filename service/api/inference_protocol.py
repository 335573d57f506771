"""The Open Inference Protocol v2 (KServe, Triton): metadata, readiness, inference with and without sequences."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import JSONResponse, Response

from service import __version__
from service.api.bodies import JSON, body_schema, read_body
from service.api.inference_errors import InferenceRoute
from service.api.inference_tensors import INPUTS, TensorSpec, output_specs, output_tensors
from service.api.problems import PROBLEM_RESPONSES, invalid_fields
from service.api.sequences import Inference, Sequences
from service.api.services import AppServices, Services, services_of
from service.errors import NotFoundError, UnknownModelError, UnusableInputError
from service.streaming.library import Served
from service.wire.tensors import HEADER_LENGTH, encode_body

router = APIRouter(
    prefix="/v2", tags=["Open Inference Protocol"], route_class=InferenceRoute, responses=PROBLEM_RESPONSES
)
