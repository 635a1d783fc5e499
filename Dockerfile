# The pipeline with its environment; in the folder that is to hold data and results:
#     docker build -t acr PATH_OF_THIS_CHECKOUT
#     docker run --rm --gpus all -v "$PWD:/project" acr --cores all --configfile /acr/config/voc12.yaml
# Written to match the README's commands and apptainer.def, which tests/test_containers.py compares; not built here.
FROM python:3.11-slim

# pydensecrf2 is built from source
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*

WORKDIR /acr
COPY pyproject.toml constraints.txt environment.yml README.md LICENSE ./
COPY acr acr
COPY config config
COPY workflow workflow
ENV PIP_NO_CACHE_DIR=1
RUN pip install -c constraints.txt cython setuptools
RUN pip install -c constraints.txt --no-build-isolation -e ".[test]"

# what runs is not root, and writes to /project alone
RUN useradd --create-home --uid 1000 acr && install -d -o acr /project
USER acr
WORKDIR /project
ENTRYPOINT ["snakemake", "--snakefile", "/acr/workflow/Snakefile"]
