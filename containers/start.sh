#!/bin/sh
# Runs a command in the project, with /work, the user's folder, as the place of its results.
mkdir -p /work/results /work/.snakemake && cd /opt/xft && exec "$@"
