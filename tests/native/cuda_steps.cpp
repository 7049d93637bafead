// Every update rule and every move on the GPU, bit by bit against the CPU. Skipped where there is no device.
#include <cuda_runtime_api.h>

#include <limits>

#include "cuda/cuda.h"
#include "support.h"

using namespace popgrad;
using namespace popgrad::test;

namespace {

void check_cuda(cudaError_t status, const char* what) {
  CHECK(status == cudaSuccess, what, cudaGetErrorString(status));
}

// A copy on the device of what is on the host.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const Exact<T>& host) : size_(host.size()) {
    check_cuda(cudaMalloc(&memory_, (size_ + 1) * sizeof(T)), "cudaMalloc");
    check_cuda(cudaMemcpy(memory_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "to the device");
  }
  ~OnDevice() { cudaFree(memory_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* data() { return static_cast<T*>(memory_); }
  Exact<T> host() const {
    Exact<T> out(size_);
    check_cuda(cudaMemcpy(out.data(), memory_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "from the device");
    return out;
  }

 private:
  size_t size_;
  void* memory_ = nullptr;
};

template <class T>
void sprinkle(Exact<T>& values) {
  using L = std::numeric_limits<T>;
  const T odd[] = {L::infinity(), -L::infinity(), L::quiet_NaN(), L::denorm_min(), -L::min(), T(-0.0), L::max()};
  for (size_t i = 2, k = 0; i < values.size(); i += 13, ++k) values[i] = odd[k % 7];
}

template <class T>
void compare_step(const StepRule& cpu, const StepRule& gpu, size_t n) {
  Rng rng{n};
  Exact<T> w(n, rng, -2, 2), g(n, rng, -3, 3), state(size_t(cpu.states) * n, rng, 0, 2);
  sprinkle(w);
  sprinkle(g);
  const Exact<double> fields = some_fields(cpu.fields, 1, rng);
  OnDevice<T> device_w(w), device_g(g), device_state(state);
  for (int t = 0; t < 3; ++t) {
    fn<T>(cpu)(fields.data(), StepArgs<T>{w.data(), g.data(), state.data(), n}, 0, n);
    fn<T>(gpu)(fields.data(), StepArgs<T>{device_w.data(), device_g.data(), device_state.data(), n}, 0, n);
  }
  check_cuda(cudaGetLastError(), gpu.name);
  check_cuda(cudaDeviceSynchronize(), gpu.name);
  check_same(w, device_w.host(), cpu.name, sizeof(T) == 4 ? "w, float" : "w, double");
  check_same(state, device_state.host(), cpu.name, sizeof(T) == 4 ? "state, float" : "state, double");
}

template <class T>
void compare_move(const MoveRule& cpu, const MoveRule& gpu, size_t n) {
  const size_t members = 3;
  Rng rng{n};
  Exact<T> x(members * n, rng, -2, 2), velocity(members * n, rng, -1, 1), source(members * n, rng, -2, 2);
  const Exact<T> shared(n, rng, -2, 2);
  Exact<int64_t> rows(members), chosen(members);
  Exact<uint32_t> identity(members);
  for (size_t p = 0; p < members; ++p) {
    rows[p] = int64_t(rng.next() % members);
    chosen[p] = n ? int64_t(rng.next() % n) : 0;
    identity[p] = uint32_t(rng.next());
  }
  sprinkle(x);
  const Exact<double> fields = some_fields(cpu.fields, members, rng);
  OnDevice<T> device_x(x), device_velocity(velocity), device_source(source), device_shared(shared);
  OnDevice<int64_t> device_rows(rows), device_chosen(chosen);
  OnDevice<uint32_t> device_identity(identity);

  MoveArgs<T> args{};
  args.field_stride = words(cpu.fields);
  args.seed = 0x0123456789ABCDEFu;
  args.stream = 5;
  args.generation = 77;
  args.n = n;
  MoveArgs<T> there = args;
  args.out[0] = x.data(), args.out[1] = velocity.data();
  there.out[0] = device_x.data(), there.out[1] = device_velocity.data();
  for (int k = 0; k < cpu.sources; ++k) {
    const bool one = k == 2;
    args.source[k] = one ? shared.data() : source.data();
    there.source[k] = one ? device_shared.data() : device_source.data();
    args.source_stride[k] = there.source_stride[k] = one ? 0 : n;
    args.row[k] = k == 1 ? rows.data() : nullptr;
    there.row[k] = k == 1 ? device_rows.data() : nullptr;
  }
  OnDevice<double> device_fields(fields);
  args.fields = fields.data(), there.fields = device_fields.data();
  args.chosen = chosen.data(), there.chosen = device_chosen.data();
  args.identity = identity.data(), there.identity = device_identity.data();
  for (size_t p = 0; p < members; ++p) {
    fn<T>(cpu)(args, p, 0, n);
    fn<T>(gpu)(there, p, 0, n);
  }
  check_cuda(cudaGetLastError(), gpu.name);
  check_cuda(cudaDeviceSynchronize(), gpu.name);
  check_same(x, device_x.host(), cpu.name, sizeof(T) == 4 ? "x, float" : "x, double");
  check_same(velocity, device_velocity.host(), cpu.name, sizeof(T) == 4 ? "velocity, float" : "velocity, double");
}

}  // namespace

int main() {
  CHECK(cuda::built && cuda::kernels);
  if (cuda::device_count() == 0) skip("no CUDA device, or no driver for it");
  const Kernels &cpu = *targets().front().kernels, &gpu = *cuda::kernels;
  CHECK(cpu.step_count == gpu.step_count && cpu.move_count == gpu.move_count);
  for (const size_t n : {0, 1, 255, 256, 257, 100'000, 1'000'003}) {
    for (int k = 0; k < cpu.step_count; ++k) {
      CHECK(std::strcmp(cpu.steps[k].name, gpu.steps[k].name) == 0);
      compare_step<float>(cpu.steps[k], gpu.steps[k], n);
      compare_step<double>(cpu.steps[k], gpu.steps[k], n);
    }
    for (int k = 0; k < cpu.move_count; ++k) {
      CHECK(std::strcmp(cpu.moves[k].name, gpu.moves[k].name) == 0);
      compare_move<float>(cpu.moves[k], gpu.moves[k], n);
      compare_move<double>(cpu.moves[k], gpu.moves[k], n);
    }
  }
  std::printf("%d rules and %d moves: the same bits on the CPU and the GPU\n", gpu.step_count, gpu.move_count);
}
