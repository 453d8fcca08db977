"""The whole workflow with `gpus: 1`, in processes of its own."""

import json

import pytest
from conftest import REPOSITORY
from gpu_and_cpu import BF16
from project import copy_project
