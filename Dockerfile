# medseg in a container; docs/install.md has the commands.
#
# TORCH_INDEX: address of an index with builds of torch for one kind of device, such as PyTorch's own for the CPU, which
# is asked beside pip's usual one. Empty: the usual torch, which for x86-64 is made for NVIDIA GPUs and brings CUDA along.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY . .
ENV PIP_CONSTRAINT=/source/constraints.txt
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
COPY constraints.txt /tmp/constraints.txt
# of two builds of one version pip takes that with a local label, such as 2.13.0+cpu
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} torch
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt "$(echo /tmp/wheels/medseg-*.whl)[dicom,onnx]" \
    && useradd --create-home --uid 1000 medseg \
    && install --directory --owner medseg --group medseg /data
# may also run as another user, who has no home in it
ENV MPLCONFIGDIR=/tmp/matplotlib
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["medseg"]
CMD ["--help"]
