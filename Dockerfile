# docker build -t dbbd .                                 with PyTorch's CPU build
# docker build -t dbbd:cuda --build-arg TORCH=cuda .     with CUDA: docker run --gpus all dbbd:cuda …
# docker run --rm -it --user "$(id -u):$(id -g)" -e HOME=/tmp -v "$PWD:/work" dbbd train --config qr_cnn --set data.path=pictures
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG TORCH=cpu
# Extras of pyproject.toml, separated by commas, such as parquet,las.
ARG EXTRAS=

RUN if [ "$TORCH" = cpu ]; then \
      pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision; \
    fi
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY dbbd_cli dbbd_cli
COPY configs configs
COPY completions completions
RUN pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}" && rm -rf /source

RUN useradd --create-home dbbd && mkdir /work && chown dbbd /work
USER dbbd
WORKDIR /work
ENTRYPOINT ["dbbd"]
