// A second device for tests on machines that have none: torch.device("second").
//
// It has memory of its own and the CPU's arithmetic, and refuses what a graphics card refuses: an operation over tensors
// of both devices, a generator of the other device, and, on request, float64. What it computes is bit-equal to the
// CPU's wherever PyTorch takes the same steps on both.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>

namespace {

using at::Tensor;
using c10::Device;
using c10::SymIntArrayRef;

constexpr auto SECOND = c10::DeviceType::PrivateUse1;
const c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);

Device second() { return Device(SECOND, 0); }

bool is_second(const Tensor& x) { return x.defined() && x.device().type() == SECOND; }

// ---------------------------------------------------------------------------------------------------------- memory

std::atomic<long> held_bytes{0};

struct Block {
  size_t size;
  void* start;
};

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  held_bytes -= static_cast<long>(block->size);
  std::free(block->start);
  delete block;
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* start = nullptr;
    if (size && posix_memalign(&start, 64, size)) throw std::bad_alloc();
    held_bytes += static_cast<long>(size);
    return {start, new Block{size, start}, &release, second()};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t size) const override { default_copy_data(to, from, size); }
};

Memory memory;
REGISTER_ALLOCATOR(SECOND, &memory);

std::atomic<bool> has_float64{true};

// Apple's GPUs have no float64.
void require(caffe2::TypeMeta type) {
  bool is_float64 = type == caffe2::TypeMeta::Make<double>() || type == caffe2::TypeMeta::Make<c10::complex<double>>();
  TORCH_CHECK_TYPE(has_float64 || !is_float64, "The second device has no float64.");
}

// ------------------------------------------------------------------------------- what PyTorch asks of every device

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return SECOND; }
  Device exchangeDevice(Device) const override { return second(); }
  Device getDevice() const override { return second(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  c10::Stream getStream(Device device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// Draws what the CPU's generator draws.
struct Generator final : c10::GeneratorImpl {
  at::Generator inner;

  explicit Generator(at::Generator generator) : c10::GeneratorImpl(second(), KEYS), inner(std::move(generator)) {}
  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  void set_state(const c10::TensorImpl& state) override { inner.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return inner.unsafeGetGeneratorImpl()->get_state(); }
  Generator* clone_impl() const override { return new Generator(inner.clone()); }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  Device getDeviceFromPtr(void*) const override { return second(); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<Generator>(at::detail::createCPUGenerator());
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static auto generator = at::make_generator<Generator>(at::detail::getDefaultCPUGenerator());
    return generator;
  }
};

// ----------------------------------------------------------------------------- from one device to the other, uncopied

// The same memory as a tensor of the CPU.
Tensor on_cpu(const Tensor& x) {
  if (!is_second(x)) return x;
  auto options = at::TensorOptions().dtype(x.dtype()).device(at::kCPU);
  auto keep = [x](void*) {};
  Tensor same = at::from_blob(x.data_ptr(), x.sizes(), x.strides(), keep, options);
  same._set_conj(x.is_conj());
  same._set_neg(x.is_neg());
  return same;
}

std::optional<Tensor> on_cpu(const std::optional<Tensor>& x) { return x ? std::optional<Tensor>(on_cpu(*x)) : x; }

struct Kept {
  Tensor tensor;
  long size;
};

void let_go(void* context) {
  auto* kept = static_cast<Kept*>(context);
  held_bytes -= kept->size;
  delete kept;
}

// The same memory as a tensor of the second device. A view's memory is counted already.
Tensor on_second(const Tensor& x, bool is_view = false) {
  if (!x.defined() || x.device().type() != at::kCPU) return x;
  require(x.dtype());
  size_t size = x.storage().nbytes();
  long counted = is_view ? 0 : static_cast<long>(size);
  held_bytes += counted;
  c10::DataPtr data(x.storage().mutable_data(), new Kept{x, counted}, &let_go, second());
  c10::Storage storage(c10::Storage::use_byte_size_t(), size, std::move(data), &memory, true);
  auto same = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), KEYS, x.dtype());
  same.unsafeGetTensorImpl()->set_sizes_and_strides(x.sizes(), x.strides(), x.storage_offset());
  return same;
}

// As on a graphics card: tensors of both devices in one operation are refused, except numbers (0-d) of the CPU.
void require_one_device(const std::string& operation, at::ArrayRef<Tensor> tensors) {
  bool any_second = false, any_cpu = false;
  for (const auto& x : tensors) {
    any_second |= is_second(x);
    any_cpu |= x.defined() && x.device().type() == at::kCPU && x.dim() > 0;
  }
  TORCH_CHECK(
      !(any_second && any_cpu),
      "Expected all tensors to be on the same device, but found at least two devices, second:0 and cpu! (in ",
      operation,
      ")");
}

// ------------------------------------------------------------------------------------ memory, views and copies

using Type = std::optional<at::ScalarType>;
using Layout = std::optional<at::Layout>;
using Where = std::optional<Device>;
using Pinned = std::optional<bool>;
using Format = std::optional<at::MemoryFormat>;

at::IntArrayRef ints(SymIntArrayRef sizes) { return C10_AS_INTARRAYREF_SLOW(sizes); }

Tensor empty(SymIntArrayRef size, Type type, Layout, Where, Pinned, Format format) {
  auto scalar = c10::dtype_or_default(type);
  require(c10::scalarTypeToTypeMeta(scalar));
  return at::detail::empty_generic(ints(size), &memory, KEYS, scalar, format);
}

Tensor empty_strided(SymIntArrayRef size, SymIntArrayRef stride, Type type, Layout, Where, Pinned) {
  auto scalar = c10::dtype_or_default(type);
  require(c10::scalarTypeToTypeMeta(scalar));
  return at::detail::empty_strided_generic(ints(size), ints(stride), &memory, KEYS, scalar);
}

Tensor as_strided(const Tensor& x, SymIntArrayRef size, SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  auto start = offset ? std::optional<int64_t>(offset->guard_int(__FILE__, __LINE__)) : std::nullopt;
  return at::native::as_strided_tensorimpl(x, ints(size), ints(stride), start);
}

Tensor view(const Tensor& x, SymIntArrayRef size) { return at::native::view(x, ints(size)); }

Tensor reshape_alias(const Tensor& x, SymIntArrayRef size, SymIntArrayRef stride) {
  return at::native::_reshape_alias(x, ints(size), ints(stride));
}

const Tensor& resize_(const Tensor& x, SymIntArrayRef size, Format format) {
  return at::native::resize_(x, ints(size), format);
}

Tensor& set_storage(Tensor& x, at::Storage storage, c10::SymInt offset, SymIntArrayRef size, SymIntArrayRef stride) {
  return at::native::set_storage_cpu_(x, storage, offset.guard_int(__FILE__, __LINE__), ints(size), ints(stride));
}

Tensor& set_source(Tensor& x, at::Storage storage) { return at::native::set_(x, storage); }

Tensor& set_tensor(Tensor& x, const Tensor& source) { return at::native::set_tensor_(x, source); }

// Between the devices too: this alone may join them.
Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  if (from.numel() || to.numel()) on_cpu(to).copy_(on_cpu(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar local_scalar(const Tensor& x) { return at::_local_scalar_dense(on_cpu(x)); }

// --------------------------------------------------------------------------------------------------------- arithmetic

using Bias = std::optional<Tensor>;

Tensor convolution(
    const Tensor& x, const Tensor& weight, const Bias& bias, SymIntArrayRef stride, SymIntArrayRef padding,
    SymIntArrayRef dilation, bool transposed, SymIntArrayRef output_padding, c10::SymInt groups) {
  require_one_device("convolution", {x, weight, bias.value_or(Tensor())});
  return on_second(at::convolution_symint(
      on_cpu(x), on_cpu(weight), on_cpu(bias), stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& x, const Tensor& weight, SymIntArrayRef stride, SymIntArrayRef padding,
    SymIntArrayRef dilation, bool transposed, SymIntArrayRef output_padding, c10::SymInt groups,
    std::array<bool, 3> wanted) {
  require_one_device("convolution_backward", {gradient, x, weight});
  auto bias_size = SymIntArrayRef({weight.sym_size(0)});
  auto [of_x, of_weight, of_bias] = at::convolution_backward_symint(
      on_cpu(gradient), on_cpu(x), on_cpu(weight), bias_size, stride, padding, dilation, transposed, output_padding,
      groups, wanted);
  return {on_second(of_x), on_second(of_weight), on_second(of_bias)};
}

int64_t attention_choice(
    const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool, std::optional<double>,
    bool) {
  return static_cast<int64_t>(sdp::SDPBackend::math);
}

// One operation on its way through `any_operation`.
struct Operation {
  std::string name;
  std::vector<Tensor> operands;                     // as they came
  std::vector<c10::IValue> arguments;               // as they came
  std::vector<std::pair<Tensor, Tensor>> written;   // an operand that is written to, and its twin on the CPU

  // A tensor over foreign memory cannot grow, so an empty one that is written to gets a twin of its own.
  Tensor twin(const Tensor& x, bool is_written) {
    Tensor same = on_cpu(x);
    if (!is_written || !x.defined()) return same;
    if (!x.numel()) same = at::empty(x.sizes(), same.options());
    written.emplace_back(x, same);
    return same;
  }

  c10::IValue argument(const c10::IValue& value, bool is_written) {
    if (value.isTensor()) {
      operands.push_back(value.toTensor());
      return twin(value.toTensor(), is_written);
    }
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const auto& x : value.toTensorVector()) {
        operands.push_back(x);
        list.push_back(twin(x, is_written));
      }
      return list;
    }
    if (value.isOptionalTensorList()) return indices(value.toOptionalTensorList());
    if (value.isGenerator()) return generator(value.toGenerator());
    if (value.isDevice() && value.toDevice().type() == SECOND) return c10::Device(at::kCPU);
    return value;
  }

  // A tensor of a graphics card may be indexed by tensors of the CPU, but not the other way round.
  c10::IValue indices(const c10::List<std::optional<Tensor>>& values) {
    c10::List<std::optional<Tensor>> list;
    for (size_t i = 0; i < values.size(); i++) {
      std::optional<Tensor> x = values.get(i);
      TORCH_CHECK(
          !x || !is_second(*x) || operands.empty() || is_second(operands[0]),
          "indices should be either on cpu or on the same device as the indexed tensor (cpu)");
      list.push_back(on_cpu(x));
    }
    return list;
  }

  c10::IValue generator(const at::Generator& value) {
    TORCH_CHECK(
        value.device().type() == SECOND,
        "Expected a 'second' device type for generator but found '", value.device(), "' (in ", name, ")");
    return static_cast<Generator*>(value.unsafeGetGeneratorImpl())->inner;
  }

  // Operands whose twins were given other memory get what their twins hold.
  void write_back() {
    for (auto& [x, same] : written) {
      if (x.sizes() == same.sizes() && (!x.numel() || x.data_ptr() == same.data_ptr())) continue;
      x.resize_(same.sizes());
      copy_from(same, x, false);
    }
  }

  c10::IValue result(const c10::IValue& value, const c10::Argument& returned, const c10::FunctionSchema& schema) {
    const auto* alias = returned.alias_info();
    if (value.isTensor() && alias && alias->isWrite()) {
      for (size_t i = 0; i < arguments.size(); i++) {
        const auto* other = schema.arguments()[i].alias_info();
        if (other && *other == *alias && arguments[i].isTensor()) return arguments[i];
      }
    }
    if (value.isTensor()) return on_second(value.toTensor(), alias);
    if (!value.isTensorList()) return value;
    c10::List<Tensor> list;
    for (const auto& x : value.toTensorVector()) list.push_back(on_second(x, alias));
    return list;
  }
};

// Every operation that is not named below: the CPU's own, over the same memory.
void any_operation(const c10::OperatorHandle& handle, torch::jit::Stack* stack) {
  const auto& schema = handle.schema();
  size_t arguments = schema.arguments().size(), first = stack->size() - arguments;
  Operation operation;
  operation.name = c10::toString(handle.operator_name());
  operation.arguments.assign(stack->begin() + first, stack->end());
  for (size_t i = 0; i < arguments; i++) {
    const auto* alias = schema.arguments()[i].alias_info();
    (*stack)[first + i] = operation.argument(operation.arguments[i], alias && alias->isWrite());
  }
  require_one_device(operation.name, operation.operands);
  handle.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  operation.write_back();
  size_t results = schema.returns().size();
  first = stack->size() - results;
  for (size_t i = 0; i < results; i++)
    (*stack)[first + i] = operation.result((*stack)[first + i], schema.returns()[i], schema);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&any_operation>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("as_strided", as_strided);
  library.impl("view", view);
  library.impl("_reshape_alias", reshape_alias);
  library.impl("resize_", resize_);
  library.impl("set_.source_Storage_storage_offset", set_storage);
  library.impl("set_.source_Storage", set_source);
  library.impl("set_.source_Tensor", set_tensor);
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("_local_scalar_dense", local_scalar);
  library.impl("convolution_overrideable", convolution);
  library.impl("convolution_backward_overrideable", convolution_backward);
  // These have a form made of smaller operations, which rounds otherwise than the CPU's own.
  for (const char* name : {"native_group_norm", "native_layer_norm"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&any_operation>());
}

// Copies resolve conjugate and negative views themselves: PyTorch would resolve these by a copy, and so for ever.
TORCH_LIBRARY_IMPL(aten, Conjugate, library) { library.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, Negative, library) { library.impl("_copy_from", torch::CppFunction::makeFallthrough()); }

}  // namespace

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &attention_choice);
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("register", [] { at::RegisterPrivateUse1HooksInterface(new Hooks()); });
  module.def("held", [] { return held_bytes.load(); });
  module.def("set_float64", [](bool available) { has_float64 = available; });
}
