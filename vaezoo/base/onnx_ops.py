"""TensorFlow's ops that tf2onnx does not know, made of ONNX's: TFP's shape arithmetic, and expm1 of gated flows."""

import functools

import numpy as np


@functools.cache
def register():
    """Registers the ops with tf2onnx, which must be installed."""
    from tf2onnx.handler import tf_op

    @tf_op("BroadcastArgs")
    class _BroadcastArgs:
        @classmethod
        def version_9(cls, graph, node, **kwargs):
            """Two shapes, of which the shorter one is filled up with ones -> the sizes of one where the other has 1."""

            def op(name, *inputs, **attributes):
                return graph.make_node(name, list(inputs), attr=attributes).output[0]

            def constant(value):
                return graph.make_const(f"{node.name}_{len(graph.get_nodes())}", np.array(value, np.int64)).output[0]

            output, dtype = node.output[0], graph.get_dtype(node.output[0])
            shapes = [op("Cast", shape, to=INT64) for shape in node.input]
            ranks = [op("Shape", shape) for shape in shapes]
            longest = op("Where", op("Less", *ranks), ranks[1], ranks[0])
            one = constant([1])
            first, second = (
                op("Concat", op("Expand", one, op("Sub", longest, rank)), shape, axis=0)
                for shape, rank in zip(shapes, ranks, strict=True)
            )
            graph.remove_node(node.name)
            sizes = op("Where", op("Equal", first, one), second, first)
            graph.make_node("Cast", [sizes], attr={"to": dtype}, outputs=[output], dtypes=[dtype], shapes=[[-1]])

    @tf_op("Expm1")
    class _Expm1:
        @classmethod
        def version_7(cls, graph, node, **kwargs):
            dtype, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
            graph.remove_node(node.name)
            exp = graph.make_node("Exp", list(node.input)).output[0]
            one = graph.make_const(f"{node.name}_one", np.array(1.0, np.float32)).output[0]
            graph.make_node("Sub", [exp, one], outputs=list(node.output), dtypes=[dtype], shapes=[shape])


INT64 = 7  # `onnx.TensorProto.INT64`
