#!/bin/sh
# Runs a command in the project, with /project, the user's folder, as the place of its results.
mkdir -p /project/results /project/.snakemake && cd /opt/xft && exec "$@"
