"""cuBLASLt as far as a CPU can show: what it is told, which algorithm is taken, refusals.

The library is a stand-in that insists on what the real one documents, and computes from what it is given.
"""

from __future__ import annotations

import ctypes
import re
from types import SimpleNamespace

import pytest
import torch
from copies import replace
from made_devices import CPU
from made_peers import EVEN, GPU, PER_TOKEN, blockwise_product, judge, legal, made, problem_of, site

from w8a8_bench import cache
from w8a8_bench.problem import BLOCKWISE, PER_TENSOR, Activations, GemmShape
from w8a8_bench.providers import cublaslt
from w8a8_bench.providers import cublaslt_api as api
from w8a8_bench.timing.method import Uncapturable

__all__ = ["site"]  # a fixture


CUBLASLT = [
    *(
        f"cublaslt_fp8_fp8_{out}_scaled_mm{suffix}"
        for out in ("bf16", "fp16")
        for suffix in ("", "_bias", "_fast_accum")
    ),
    "cublaslt_fp8_fp8_bf16_scaled_mm_blockwise",
    "cublaslt_i8_i8_bf16_scaled_mm",
    "cublaslt_i8_i8_bf16_scaled_mm_bias",
]
TORCH_TYPES = {
    api.CUDA_R_16F: torch.float16,
    api.CUDA_R_16BF: torch.bfloat16,
    api.CUDA_R_32I: torch.int32,
    api.CUDA_R_8I: torch.int8,
    api.CUDA_R_8F_E4M3: torch.float8_e4m3fn,
}


class Lt:
    """Computes as cuBLASLt documents it, column-major, from addresses."""

    version = "13.1.2"

    def operation(self, compute, scale, attributes):
        assert (compute, scale) in ((api.COMPUTE_32F, api.CUDA_R_32F), (api.COMPUTE_32I, api.CUDA_R_32I))
        assert attributes[api.TRANSA] == api.OP_T and set(attributes) <= set(api.CTYPES)
        return attributes

    def layout(self, dtype, rows, columns):
        return TORCH_TYPES[dtype], rows, columns

    def launch(self, product, offer, pointers, workspace):
        assert workspace[1] >= offer.workspace_bytes

        def run(stream):
            assert stream == 77
            self.compute(product, pointers)

        return run

    def compute(self, product, pointers):
        (a, b, d), attributes = map(matrix, (product.a, product.b, product.d), pointers), product.operation
        n, m = d.shape
        k = a.shape[0]
        if d.dtype is torch.int32:
            assert product.scale is ctypes.c_int32
            d.copy_(a.t().double() @ b.double())
            return
        modes = attributes.get(api.A_SCALE_MODE, 0), attributes.get(api.B_SCALE_MODE, 0)
        blocks = -(-k // 128)
        if modes == (api.SCALE_BLK128X128_32F, api.SCALE_VEC128_32F):
            padded = -(-blocks // 4) * 4
            of_a = matrix((torch.float32, padded, -(-n // 128)), attributes[api.A_SCALE_POINTER])[:blocks]
            of_b = matrix((torch.float32, m, blocks), attributes[api.B_SCALE_POINTER])
            value = blockwise_product(b.t(), a.t(), of_b, of_a.t()).t()
        else:
            sizes = {(0, 0): (1, 1), (api.SCALE_OUTER_VEC_32F,) * 2: (n, m)}[modes]
            of_a = matrix((torch.float32, sizes[0], 1), attributes[api.A_SCALE_POINTER])
            of_b = matrix((torch.float32, sizes[1], 1), attributes[api.B_SCALE_POINTER])
            value = a.t().double() @ b.double() * of_a * of_b.t()
        if attributes.get(api.EPILOGUE) == api.EPILOGUE_BIAS:
            bias_type = TORCH_TYPES[attributes[api.BIAS_DATA_TYPE]]
            value = value + matrix((bias_type, n, 1), attributes[api.BIAS_POINTER])
        d.copy_(value)


def matrix(layout, address):
    """[rows, columns] column-major at an address of the host's."""
    dtype, rows, columns = layout
    size = rows * columns * dtype.itemsize
    return torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=dtype).view(columns, rows).t()


OFFER = api.HeuristicResult(api.Algorithm(), 1024)


@pytest.mark.parametrize(("name", "scheme"), legal(CUBLASLT), ids=str)
def test_cublaslt_is_told_what_the_reference_computes(monkeypatch, name, scheme):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77))
    operands = made(name, scheme)
    workspace = torch.empty(4096, dtype=torch.uint8)
    launches = cublaslt.bind(Lt(), OFFER, operands, workspace, fast_accum=name.endswith("_fast_accum"))
    assert judge(operands, launches.total) == ""


def test_fast_accumulation_is_asked_for_by_name_alone():
    problem = problem_of(CUBLASLT[0], PER_TENSOR, EVEN)
    addresses = {"scale_a": 64, "scale_b": 128, "bias": None}
    told = [cublaslt.fp8_attributes(problem, **addresses, fast_accum=fast) for fast in (False, True)]
    assert [attributes.get(api.FAST_ACCUM) for attributes in told] == [None, 1]


def test_the_fastest_algorithm_is_found_though_its_short_look_was_not_and_one_that_does_not_run_is_left_out():
    """Index 3 is the fastest, and 2 was at a short look; 6 fails when it runs and 7 can't be captured."""
    true = [9.0, 3.06, 3.01, 3.0, 3.05, 8.0, 1.0, 1.0]
    looked = [9.0, 3.06, 2.99, 3.0, 3.05, 8.0]
    ready_now, most = 0, 0

    def look(index):
        if index >= 6:
            raise (api.CublasLtError("cublasLtMatmul", 15, "not supported"), Uncapturable("no"))[index - 6]
        return looked[index]

    def ready(index):
        nonlocal ready_now, most
        ready_now += 1
        most = max(most, ready_now)

        class Sampled:
            def __call__(self):
                return true[index]

            def __del__(self):
                nonlocal ready_now
                ready_now -= 1

        return Sampled()

    looks = [lambda index=index: look(index) for index in range(8)]
    found = cublaslt.time_finalists(looks, [lambda index=index: ready(index) for index in range(8)])
    assert min(found, key=found.__getitem__) == 3
    assert set(found) == {2, 3, 4}, "the three fastest of those that are near"
    assert most <= cublaslt.FINALISTS, "all were ready at once"


def test_an_algorithm_that_is_alone_in_front_is_not_timed_again():
    def ready():
        raise AssertionError("it was made ready")

    assert cublaslt.time_finalists([lambda: 5.0, lambda: 3.0, lambda: 3.2], [ready] * 3) == {1: 3.0}


def test_no_algorithm_that_runs_is_nothing():
    def fail():
        raise api.CublasLtError("cublasLtMatmul", 15, "not supported")

    assert cublaslt.time_finalists([fail, fail], [fail, fail]) == {}


PLAIN, BLOCK_LT, I8_LT = CUBLASLT[0], "cublaslt_fp8_fp8_bf16_scaled_mm_blockwise", "cublaslt_i8_i8_bf16_scaled_mm"


@pytest.mark.parametrize(
    ("name", "sizes", "device", "scheme", "says"),
    [
        (PLAIN, (1, 16, 16), GPU, PER_TENSOR, ""),
        (PLAIN, (1, 24, 16), GPU, PER_TENSOR, "n=24 is not a multiple of 16"),
        (I8_LT, (1, 16, 6), GPU, PER_TENSOR, "k=6 is not a multiple of 4"),
        (I8_LT, (1, 16, 20), GPU, PER_TOKEN, ""),
        (PLAIN, (1, 16, 16), replace(GPU, capability=(8, 9)), PER_TENSOR, ""),
        (PLAIN, (1, 16, 16), replace(GPU, capability=(8, 9)), PER_TOKEN, "9.0"),
        (PLAIN, (1, 16, 16), replace(GPU, cuda=(12, 8)), PER_TOKEN, "12.9"),
        (PLAIN, (1, 16, 16), replace(GPU, capability=(8, 0)), PER_TENSOR, "8.9"),
        (BLOCK_LT, (6, 16, 16), GPU, BLOCKWISE, "m=6 is not a multiple of 4"),
        (BLOCK_LT, (8, 16, 16), GPU, BLOCKWISE, ""),
        (PLAIN, (8, 16, 16), CPU, PER_TENSOR, "NVIDIA GPU"),
    ],
)
def test_cublaslts_limits_are_refused_with_the_value(name, sizes, device, scheme, says):
    m, n, k = sizes
    kernel = cublaslt.CublasLtKernel(name)
    reason = kernel.supports(problem_of(name, scheme, GemmShape(m=m, n=n, k=k)), device).reason
    assert says in reason and bool(reason) == bool(says)


def test_a_pytorch_without_cuda_is_a_reason():
    if torch.version.cuda is None:
        with pytest.raises(OSError, match="without CUDA"):
            cublaslt.kernel(PLAIN)


def test_cublaslts_structures_have_the_sizes_of_its_header():
    assert (ctypes.sizeof(api.Algorithm), ctypes.sizeof(api.HeuristicResult)) == (64, 96)


class C:
    """cuBLASLt's C functions, each of which does what a test says or returns success."""

    def __init__(self, **functions):
        self._functions, self.calls = functions, []

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append(name)
            if name.endswith("Create") and name not in self._functions:
                arguments[0]._obj.value = 4096
            return self._functions.get(name, lambda *_: 0)(*arguments)

        call.restype = call.argtypes = None
        if name.startswith("cublasLt"):
            setattr(self, name, call)
            return call
        raise AttributeError(name)


def test_only_algorithms_that_the_library_vouches_for_are_offered():
    def heuristic(handle, operation, a, b, c, d, preference, count, results, found):
        assert count.value == 5
        for index, (state, size) in enumerate([(0, 100), (15, 0), (0, 300)]):
            results[index].state, results[index].workspace_bytes = state, size
            results[index].algo.data[0] = index + 1
        found._obj.value = 3
        return 0

    lt = api.CublasLt(C(cublasLtMatmulAlgoGetHeuristic=heuristic))
    layout = lt.layout(api.CUDA_R_8I, 16, 16)
    product = api.Product(lt.operation(72, 10, {api.TRANSA: 1}), layout, layout, layout, ctypes.c_int32)
    offers = lt.algorithms(product, workspace_bytes=1 << 20, count=5)
    assert [(offer.algo.data[0], offer.workspace_bytes) for offer in offers] == [(1, 100), (3, 300)]


def test_no_algorithm_is_no_offer_and_any_other_error_says_what_the_library_says():
    words = {"cublasLtGetStatusString": lambda status: b"an invalid value"}
    for status, expected in ((15, []), (7, None)):
        lt = api.CublasLt(C(cublasLtMatmulAlgoGetHeuristic=lambda *_, status=status: status, **words))
        layout = lt.layout(api.CUDA_R_8I, 16, 16)
        product = api.Product(lt.operation(72, 10, {}), layout, layout, layout, ctypes.c_int32)
        if expected is None:
            with pytest.raises(api.CublasLtError, match="status 7: an invalid value"):
                lt.algorithms(product, workspace_bytes=0, count=1)
        else:
            assert lt.algorithms(product, workspace_bytes=0, count=1) == expected


def test_what_the_library_made_is_given_back_once_nobody_holds_it():
    library = C()
    made_layout = api.CublasLt(library).layout(api.CUDA_R_8I, 16, 16)
    assert "cublasLtMatrixLayoutDestroy" not in library.calls
    del made_layout
    assert library.calls.count("cublasLtMatrixLayoutDestroy") == 1


def test_it_does_not_quantize_and_says_so(monkeypatch):
    monkeypatch.setattr(cublaslt, "_library", Lt)
    problem = problem_of(PLAIN, PER_TOKEN, EVEN, Activations.DYNAMIC)
    assert "quantized already" in cublaslt.kernel(PLAIN).supports(problem, GPU).reason


def test_only_an_algorithm_that_the_library_checks_and_that_fits_the_workspace_is_restored():
    data = bytes(range(64))
    answers = {}

    def check(handle, operation, a, b, c, d, algorithm, result):
        assert bytes(algorithm._obj) == data
        result._obj.state, result._obj.workspace_bytes = answers["state"], answers["size"]
        return answers["status"]

    lt = api.CublasLt(C(cublasLtMatmulAlgoCheck=check))
    layout = lt.layout(api.CUDA_R_8I, 16, 16)
    product = api.Product(lt.operation(72, 10, {}), layout, layout, layout, ctypes.c_int32)

    def restored(data=data, status=0, state=0, size=300):
        answers.update(status=status, state=state, size=size)
        return lt.restored(product, data, workspace_bytes=1000)

    offer = restored()
    assert offer is not None and (bytes(offer.algo), offer.workspace_bytes) == (data, 300)
    for bad in ({"status": 7}, {"state": 15}, {"size": 1001}, {"data": data[:63]}, {"data": b""}):
        assert restored(**bad) is None, bad


class Choosing(Lt):
    """Offers three algorithms, of which the second is the fastest, and takes back those that it made."""

    def __init__(self, version="13.1.2"):
        self.version, self.asked = version, 0

    def algorithms(self, product, *, workspace_bytes, count):
        self.asked += 1
        return [self.offer(index) for index in range(3)]

    @staticmethod
    def offer(index):
        algorithm = api.Algorithm()
        algorithm.data[0] = 100 + index
        return api.HeuristicResult(algorithm, 1000 * index)

    def config(self, offer):
        return {"tile": offer.algo.data[0]}

    def restored(self, product, data, *, workspace_bytes):
        known = {bytes(self.offer(index).algo): self.offer(index) for index in range(3)}
        return known.get(data)


HERE = replace(GPU, kind="cpu")
"""A GPU by what is asked of it, whose memory is the host's."""


@pytest.fixture
def chosen(monkeypatch, tmp_path):
    """Prepare a kernel as a process does that shares `tmp_path`; gives its config, and gathers what was timed."""
    monkeypatch.setenv("W8A8_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(cublaslt, "_MADE", {})
    timed = []

    def fastest(binds, operands, device):
        timed.append(operands)
        return {0: 3e-6, 1: 1e-6}

    monkeypatch.setattr(cublaslt, "_time", fastest)

    def prepare(name=PLAIN, scheme=PER_TENSOR, shape=EVEN, *, lt=None, device=HERE, same_process=False):
        if not same_process:
            monkeypatch.setattr(cublaslt, "_INT8_FOUND", {})
        monkeypatch.setattr(cublaslt, "_library", lambda index: lt or Choosing())
        return cublaslt.CublasLtKernel(name).prepare(problem_of(name, scheme, shape), device)

    return SimpleNamespace(prepare=prepare, timed=timed)


def entry_of(tmp_path):
    (path,) = (tmp_path / "cublaslt").iterdir()
    return path


def test_a_choice_is_restored_by_the_next_process_with_what_its_record_said(chosen):
    first, second = chosen.prepare().config, chosen.prepare().config
    assert len(chosen.timed) == 1
    assert (first["cached"], second["cached"]) == (False, True)
    assert {**first, "cached": True} == second
    assert (first["rank"], first["tile"], first["workspace_bytes"]) == (1, 101, 1000)
    assert (first["tuned_s"], first["first_choice_s"]) == (1e-6, 3e-6)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", first["timed"])
    assert first["how"] == "cold, in replayed graphs: a short look at 3, then 2 within 3%"
    assert first["search_s"] >= 0


@pytest.mark.parametrize(("name", "scheme"), [(CUBLASLT[1], PER_TOKEN), (I8_LT, PER_TENSOR), (BLOCK_LT, BLOCKWISE)])
def test_a_restored_algorithm_is_the_one_that_is_launched(chosen, monkeypatch, name, scheme):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77))
    launched = []

    class Watched(Choosing):
        def launch(self, product, offer, pointers, workspace):
            launched.append(offer.algo.data[0])
            return super().launch(product, offer, pointers, workspace)

    for _ in range(2):
        operands = made(name, scheme)
        assert judge(operands, chosen.prepare(name, scheme, lt=Watched()).bind(operands).total) == ""
    assert (launched, len(chosen.timed)) == ([101, 101], 1)


def test_a_choice_that_was_made_for_anything_else_is_not_found(chosen, monkeypatch):
    chosen.prepare()
    others = [
        {"lt": Choosing("13.1.3")},
        {"device": replace(HERE, name="H100")},
        {"device": replace(HERE, sm_count=114)},
        {"scheme": PER_TOKEN},
        {"shape": replace(EVEN, m=21)},
        {"shape": GemmShape(m=EVEN.m, n=EVEN.k, k=EVEN.n)},
        {"name": "cublaslt_fp8_fp8_bf16_scaled_mm_bias"},
        {"name": "cublaslt_fp8_fp8_bf16_scaled_mm_fast_accum"},
        {"name": "cublaslt_fp8_fp8_fp16_scaled_mm"},
        {"name": I8_LT},
    ]
    for count, other in enumerate(others, 2):
        assert chosen.prepare(**other).config["cached"] is False, other
        assert len(chosen.timed) == count
    for constant in ("SEARCH", "WORKSPACE_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(cublaslt, constant, getattr(cublaslt, constant) + 1)
            assert chosen.prepare().config["cached"] is False, constant
    assert chosen.prepare().config["cached"] is True


DAMAGED = {
    "cut short": lambda entry: entry.write_text(entry.read_text()[:-20]),
    "no object": lambda entry: cache.write(entry, [1, 2]),
    "empty": lambda entry: cache.write(entry, {}),
    "no hex": lambda entry: cache.write(entry, {**cache.read(entry), "algorithm": "xy" * 64}),
    "a number": lambda entry: cache.write(entry, {**cache.read(entry), "algorithm": 7}),
    "too short": lambda entry: cache.write(entry, {**cache.read(entry), "algorithm": "00" * 63}),
    "not the library's": lambda entry: cache.write(entry, {**cache.read(entry), "algorithm": "00" * 64}),
    "no config": lambda entry: cache.write(entry, {**cache.read(entry), "config": None}),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_choice_is_made_anew_and_kept(chosen, tmp_path, damage):
    first = chosen.prepare().config
    DAMAGED[damage](entry_of(tmp_path))
    again = chosen.prepare().config
    assert (again["cached"], again["tile"]) == (False, first["tile"])
    assert chosen.prepare().config["cached"] is True


def test_int8_is_searched_once_for_all_schemes_even_if_nothing_can_be_kept(chosen, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("W8A8_BENCH_CACHE", str(tmp_path / "file"))
    for name, scheme in ((I8_LT, PER_TENSOR), (I8_LT, PER_TOKEN), (f"{I8_LT}_bias", PER_TOKEN)):
        assert chosen.prepare(name, scheme, same_process=True).config["tile"] == 101
    assert len(chosen.timed) == 1


def test_int8_choices_on_disk_serve_every_scheme(chosen):
    assert chosen.prepare(I8_LT, PER_TENSOR).config["cached"] is False
    assert chosen.prepare(f"{I8_LT}_bias", PER_TOKEN).config["cached"] is True


def test_kernels_that_differ_in_output_and_bias_alone_are_searched_on_the_same_operands(chosen, monkeypatch):
    for name in CUBLASLT[:3]:
        chosen.prepare(name)
    assert len({operands.a.data_ptr() for operands in chosen.timed}) == 1
    assert [operands.bias is not None for operands in chosen.timed] == [False, True, False]
    monkeypatch.setattr(cublaslt, "KEPT_ELEMENTS", 0)
    chosen.prepare(shape=GemmShape(m=1, n=16, k=16))
    assert cublaslt._MADE == {}, "operands too large to keep were kept, or those of the shape before were"
