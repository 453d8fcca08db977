#!/bin/sh
# Runs a command in the project. Its results go to /project, the user's folder.
mkdir -p /project/results /project/store /project/.snakemake && cd /opt/xft && exec "$@"
