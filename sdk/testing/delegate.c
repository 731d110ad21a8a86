/* A fake libedgetpu: claims the compiled parts of a model and answers one value, or fails as its options ask.

   It has the two entry points of TensorFlow Lite's external delegates and declares the structures
   of that interface itself, so that it needs no headers (run with tflite-runtime 2.14 and LiteRT
   2.3). Nothing is computed, and an inference takes delay_us.

   Options: device (as libedgetpu's; there are one USB and no PCIe devices), fill (the byte that
   every output is filled with), delay_us (how long each inference takes), fail_after (inferences
   until a failed USB transfer that is reported), abort_after (until one that ends the process, as
   libedgetpu's does), crash (1: dies while it is opened, as a build for another TensorFlow does). */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define OPERATOR "edgetpu-custom-op"
#define USB_ERROR "USB transfer error 5 [LibUsbDataOutCallback]"

enum { OK = 0, ERROR = 1, ALLOW_DYNAMIC_TENSORS = 1, NEVER = -1 };

typedef struct { int size; int values[]; } Indices;

typedef struct Context Context;
typedef struct Delegate Delegate;
typedef struct Tensor Tensor;

struct Tensor {
    int type;
    void *data;
    Indices *shape;
    struct { float scale; int32_t zero_point; } quantization;
    int allocation_type;
    size_t bytes;
    const void *allocation;
    const char *name;
    Delegate *delegate;
    int buffer_handle;
    bool is_stale, is_variable;
    struct { int type; void *parameters; } full_quantization;
    void *sparsity;
    const Indices *shape_signature;
};

typedef struct {
    Indices *inputs, *outputs;
} Node;

typedef struct {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    int (*prepare)(Context *, Node *);
    int (*invoke)(Context *, Node *);
    const char *(*profile)(const Context *, const Node *);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *external;
    void *(*async_kernel)(Context *, Node *);
    uint64_t inplace;
} Registration;

struct Context {
    size_t tensor_count;
    int (*get_execution_plan)(Context *, Indices **);
    Tensor *tensors;
    void *implementation;
    int (*resize)(Context *, Tensor *, Indices *);
    void (*report)(Context *, const char *, ...);
    int (*add_tensors)(Context *, int, int *);
    int (*get_node)(Context *, int, Node **, Registration **);
    int (*replace)(Context *, Registration, const Indices *, Delegate *);
};

struct Delegate {
    void *settings;
    int (*prepare)(Context *, Delegate *);
    int (*copy_from)(Context *, Delegate *, int, Tensor *);
    int (*copy_to)(Context *, Delegate *, int, Tensor *);
    void (*free_buffer)(Context *, Delegate *, int *);
    int64_t flags;
    void *opaque;
};

static struct { long fill, delay_us, fail_after, abort_after, crash; } settings;
static long inferences;

static int prepare_node(Context *context, Node *node) {
    (void)context;
    (void)node;
    return OK;
}

static int invoke(Context *context, Node *node) {
    long number = inferences++;
    if (settings.abort_after != NEVER && number >= settings.abort_after) {
        fprintf(stderr, "F driver/usb/usb_driver.cc:802] bulk out for header failed. Abort. Unknown: " USB_ERROR "\n");
        abort();
    }
    if (settings.fail_after != NEVER && number >= settings.fail_after) {
        context->report(context, USB_ERROR);
        return ERROR;
    }
    usleep((useconds_t)settings.delay_us);
    for (int i = 0; i < node->outputs->size; i++) {
        Tensor *tensor = &context->tensors[node->outputs->values[i]];
        memset(tensor->data, (int)settings.fill, tensor->bytes);
    }
    return OK;
}

static int claim(Context *context, Delegate *delegate) {
    Indices *plan;
    if (context->get_execution_plan(context, &plan) != OK) return ERROR;
    Indices *claimed = calloc(1, sizeof(Indices) + (size_t)plan->size * sizeof(int));
    if (!claimed) return ERROR;
    for (int i = 0; i < plan->size; i++) {
        Node *node;
        Registration *found;
        if (context->get_node(context, plan->values[i], &node, &found) != OK) continue;
        if (found->custom_name && strcmp(found->custom_name, OPERATOR) == 0)
            claimed->values[claimed->size++] = plan->values[i];
    }
    Registration ours = {.prepare = prepare_node, .invoke = invoke, .custom_name = "FakeEdgeTpu", .version = 1};
    int status = context->replace(context, ours, claimed, delegate);
    free(claimed);
    return status;
}

static bool is_there(const char *device) {
    static const char *const names[] = {"", ":0", "usb", "usb:0"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(device, names[i]) == 0) return true;
    return false;
}

static long *setting(const char *name) {
    if (strcmp(name, "fill") == 0) return &settings.fill;
    if (strcmp(name, "delay_us") == 0) return &settings.delay_us;
    if (strcmp(name, "fail_after") == 0) return &settings.fail_after;
    if (strcmp(name, "abort_after") == 0) return &settings.abort_after;
    if (strcmp(name, "crash") == 0) return &settings.crash;
    return NULL;
}

EXPORT Delegate *tflite_plugin_create_delegate(char **names, char **values, size_t count, void (*report)(const char *)) {
    (void)report; /* libedgetpu reports nothing either */
    settings.delay_us = settings.crash = 0;
    settings.fill = 7;
    settings.fail_after = settings.abort_after = NEVER;
    inferences = 0;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], "device") == 0 && !is_there(values[i])) return NULL;
        long *found = setting(names[i]);
        if (found) *found = strtol(values[i], NULL, 10);
    }
    if (settings.crash) *(volatile int *)0 = 0;
    Delegate *delegate = calloc(1, sizeof *delegate);
    if (!delegate) return NULL;
    delegate->prepare = claim;
    /* Without it, the interpreter refuses graphs whose shapes it cannot know: the operator's are not. */
    delegate->flags = ALLOW_DYNAMIC_TENSORS;
    return delegate;
}

EXPORT void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
