"""A kernel's CUDA C++ as the C++ that g++ compiles."""

from __future__ import annotations

import re

from tests.search.gpu.emulation.errors import EmulationError

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
CUDA_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<(cuda\w*|mma|crt/\w+)(\.h|\.hpp)?>", re.M)
SHARED = re.compile(r"(extern\s+)?\b__shared__\b([^;]*);")
ALIGNMENT = re.compile(r"\b(?:__align__|alignas)\s*\(([^()]*(?:\([^()]*\))?[^()]*)\)")
DECLARATION = re.compile(
    r"\s*(?P<type>\S.*?)\s*\b(?P<name>\w+)\s*(?P<extent>(\[[^\[\]]*\]\s*)*)$", re.S
)


def emulation_source(file: str, name: str, text: str) -> str:
    """C++ of the kernel ``name`` behind the entry points that Python calls."""
    text = CUDA_INCLUDE.sub("", _uncommented(text))
    text = SHARED.sub(_rewritten_shared, text)
    return f"""#line 1 "{file}"
{text}
#line 1 "entry points of {file}"
extern "C" const emulation::Parameter* emulation_parameters(int* n) {{
    return emulation::parameters(&{name}, n);
}}
extern "C" int emulation_launch(const emulation::Configuration* configuration, void** arguments,
                                char* message, size_t message_bytes) {{
    return emulation::launch(&{name}, *configuration, arguments, message, message_bytes);
}}
"""


def parameter_names(text: str, kernel: str) -> list[str]:
    """As the source has them; [] where it does not say."""
    name = kernel.split("<")[0].split("::")[-1].strip()
    definition = re.search(rf"__global__[^;{{}}]*?\b{name}\s*\(([^{{;]*)\)", _uncommented(text))
    if definition is None:
        return []
    return [part.split()[-1].lstrip("*&") for part in definition[1].split(",") if part.split()]


def _uncommented(text: str) -> str:
    return COMMENT.sub(lambda comment: "\n" * comment[0].count("\n") or " ", text)


def _rewritten_shared(shared: re.Match[str]) -> str:
    """A ``__shared__`` declaration as a reference into the block's shared memory."""
    is_dynamic, declared = shared[1], shared[2]
    alignment = ALIGNMENT.search(declared)
    declaration = DECLARATION.match(ALIGNMENT.sub("", declared))
    if declaration is None or "," in declaration["type"].rpartition(">")[2]:
        raise EmulationError(f"__shared__ takes one variable a declaration: {shared[0]}")
    lines = "\n" * shared[0].count("\n")
    element, name, extent = declaration["type"], declaration["name"], declaration["extent"]
    if is_dynamic:
        return f"{element}* const {name} = ({element}*)emulation::dynamic_shared();{lines}"
    arguments = f"{element}{extent}" + (f", ({alignment[1]})" if alignment else "")
    return (
        f"static char site_of_{name}; auto& {name} = emulation::static_shared<{arguments}>"
        f"(&site_of_{name}, __FILE__, __LINE__);{lines}"
    )
