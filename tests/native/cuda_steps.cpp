// Every update rule and every move on the GPU against the CPU: bit by bit, except rules that sum over tensors. Skipped
// where there is no device.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>

#include "api.h"
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

// A tensor whose arrays are on the device.
template <class T>
struct DeviceTensor {
  OnDevice<T> w, g, average;
  OnDevice<double> kept;
  std::vector<std::unique_ptr<OnDevice<T>>> states;

  explicit DeviceTensor(const Tensor<T>& host) : w(host.w), g(host.g), average(host.average), kept(host.kept) {
    for (const Exact<T>& state : host.numbers) states.push_back(std::make_unique<OnDevice<T>>(state));
  }
  StepArgs<T> args(StepArgs<T> host) {
    host.w = w.data(), host.g = g.data(), host.kept = kept.data();
    if (host.average) host.average = average.data();
    for (size_t k = 0; k < states.size(); ++k) host.state[k] = states[k]->data();
    return host;
  }
};

// Sums are taken in another order: what follows from them agrees to some places.
template <class T>
void check_close(const Exact<T>& want, const Exact<T>& got, bool same, const char* what, const char* where) {
  if (same) return check_same(want, got, what, where);
  const double digits = sizeof(T) == sizeof(float) ? 1e-5 : 1e-12;
  for (size_t i = 0; i < want.size(); ++i)
    CHECK(std::abs(double(want[i]) - double(got[i])) <= digits * (1 + std::abs(double(want[i]))), what, where, i,
          want[i], got[i]);
}

template <class T>
void compare_steps(int index, const std::vector<size_t>& lengths, const StepExtras* extras) {
  const StepRule& rule = kernels().steps[index];
  const bool same = rule.sums == 0;
  Rng rng{uint64_t(index)};
  std::vector<Tensor<T>> host;
  for (const size_t n : lengths) {
    host.emplace_back(rule, n, rng);
    if (same) sprinkle(host.back().w, 2), sprinkle(host.back().g, 5);
    std::copy_n(host[0].kept.data(), rule.kept, host.back().kept.data());
  }
  Exact<double> fields(most_fields);
  const Exact<double> values = some_fields(rule.fields, 1, rng);
  std::copy_n(values.data(), values.size(), fields.data());
  std::vector<StepArgs<T>> args, there;
  std::vector<std::unique_ptr<DeviceTensor<T>>> device;
  for (size_t k = 0; k < host.size(); ++k) {
    args.push_back(host[k].args(extras, extras && k % 2));
    args.back().fields = fields.data();
    args.back().adapt = k % 3 != 1;
    device.push_back(std::make_unique<DeviceTensor<T>>(host[k]));
    there.push_back(device.back()->args(args.back()));
  }
  cuda::Tensors<T> list(there.data(), there.size());
  for (int t = 0; t < 3; ++t) {
    step(rule, args.data(), args.size());
    list.step(index, fields.data(), extras);
  }
  check_cuda(cudaDeviceSynchronize(), rule.name);
  for (size_t k = 0; k < host.size(); ++k) {
    check_close(host[k].w, device[k]->w.host(), same, rule.name, "w");
    check_close(host[k].average, device[k]->average.host(), same, rule.name, "average");
    check_close(host[k].kept, device[k]->kept.host(), same, rule.name, "kept");
    for (size_t j = 0; j < host[k].numbers.size(); ++j)
      check_close(host[k].numbers[j], device[k]->states[j]->host(), same, rule.name, "state");
  }
}

template <class T>
void compare_steps(int index) {
  const StepExtras extras = {0.5, 0.8, 0.1, 0.1, 0.01, 0.3};
  std::vector<size_t> many;
  for (size_t k = 0; k < 200; ++k) many.push_back(k % 7 ? k : 0);
  for (const StepExtras* around : {static_cast<const StepExtras*>(nullptr), &extras}) {
    compare_steps<T>(index, {0, 1, 255, 256, 257, 0, 2047, 2048, 2049, 100'000, 0}, around);
    compare_steps<T>(index, many, around);
    compare_steps<T>(index, {1'000'003}, around);
    compare_steps<T>(index, {0}, around);
  }
}

void refuses_packed_states() {
  StepArgs<float> args{};
  args.packing = Packing::bytes;
  try {
    cuda::Tensors<float>(&args, 1);
  } catch (const std::invalid_argument&) {
    return;
  }
  CHECK(false, "packed states were taken");
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
  sprinkle(x, 2);
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
  const Kernels &cpu = *targets().front().kernels, &gpu = *cuda::kernels;
  CHECK(cpu.step_count == gpu.step_count && cpu.move_count == gpu.move_count);
  for (int k = 0; k < cpu.step_count; ++k) {
    const StepRule &a = cpu.steps[k], &b = gpu.steps[k];
    CHECK(std::strcmp(a.name, b.name) == 0 && std::strcmp(a.fields, b.fields) == 0, a.name, b.name);
    CHECK(a.states == b.states && a.sums == b.sums && a.kept == b.kept && a.whole == b.whole, a.name);
  }
  refuses_packed_states();
  if (cuda::device_count() == 0) skip("no CUDA device, or no driver for it");
  for (int k = 0; k < cpu.step_count; ++k) {
    compare_steps<float>(k);
    compare_steps<double>(k);
  }
  for (const size_t n : {0, 1, 255, 256, 257, 100'000, 1'000'003})
    for (int k = 0; k < cpu.move_count; ++k) {
      CHECK(std::strcmp(cpu.moves[k].name, gpu.moves[k].name) == 0);
      compare_move<float>(cpu.moves[k], gpu.moves[k], n);
      compare_move<double>(cpu.moves[k], gpu.moves[k], n);
    }
  std::printf("%d rules and %d moves: the same bits on the CPU and the GPU\n", gpu.step_count, gpu.move_count);
}
