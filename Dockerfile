# Not built here: no Docker engine was at hand. For a CPU:
#   docker build -t starter . && docker run --rm -v "$PWD":/work starter python train.py
# For a GPU (PyPI's torch brings its CUDA libraries; the host needs NVIDIA's driver and container toolkit):
#   docker build --build-arg TORCH_INDEX=https://pypi.org/simple -t starter-gpu .
#   docker run --rm --gpus all --ipc=host -v "$PWD":/work starter-gpu python train.py
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir "torch>=2.9" "torchvision>=0.24" --index-url "${TORCH_INDEX}" \
 && pip install --no-cache-dir -r /tmp/requirements.txt
WORKDIR /work
