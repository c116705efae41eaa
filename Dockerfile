# Trains on a CPU, on the handwritten digits:
#
#     docker build --build-arg UID="$(id -u)" -t kpp-pyro .
#     mkdir -p runs && docker run --rm -v "$PWD/runs:/runs" kpp-pyro
#
# For a GPU, add --build-arg TORCH_INDEX=https://pypi.org/simple to the first command, and --gpus all to the second.
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url $TORCH_INDEX torch torchvision

WORKDIR /usr/src/kpp-pyro
COPY pyproject.toml README.md LICENSE ./
COPY kpp_pyro kpp_pyro
COPY models models
COPY inference inference
COPY experiments experiments
RUN pip install --no-cache-dir .

ARG UID=1000
RUN useradd --create-home --uid $UID kpp && install --directory --owner=kpp /runs
USER kpp
WORKDIR /
VOLUME /runs

CMD ["kpp-train", "--dataset", "digits"]
