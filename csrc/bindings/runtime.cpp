// What this build is and runs on: isa(), isas(), bfloat16(), threads(), set_threads(count), borrow_threads(library),
// cuda_built(), cuda_devices(). Stream: an enum.IntEnum of the streams of random numbers.
#include "../api.h"
#include "../cpu/detect.h"
#include "../cpu/threads.h"
#include "../cuda/cuda.h"
#include "../streams.h"
#include "module.h"

namespace py = pybind11;

namespace popgrad::bindings {

static py::object stream_enum() {
  py::dict members;
#define X(name, number) members[#name] = uint32_t(Stream::name);
  STREAMS(X)
#undef X
  return py::module_::import("enum").attr("IntEnum")("Stream", members, py::arg("module") = "popgrad._core");
}

void bind_runtime(py::module_& m) {
  // At the import, not at the first use, so that a forced instruction set or thread count that is not available is an
  // error of the import.
  kernels();
  thread_count();
  m.attr("Stream") = stream_enum();
  m.def("isa", [] { return kernels().name; });
  m.def("isas", [] {
    py::dict all;
    for (const Target& target : targets()) all[target.name] = target.supported;
    return all;
  });
  m.def("bfloat16", &bfloat16_name);
  m.def("threads", &thread_count);
  m.def("set_threads", &set_thread_count, py::arg("count"));
  m.def(
      "borrow_threads", [](const std::string& library) { return borrow_threads(library.c_str()); }, py::arg("library"));
  m.def("cuda_built", [] { return cuda::built; });
  m.def("cuda_devices", &cuda::device_count);
}

}  // namespace popgrad::bindings
