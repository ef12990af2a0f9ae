"""The mypy plugin: what a decorated class takes at construction and when it is called.

    [tool.mypy]
    plugins = ["classifier_free_guidance_pytorch.mypy_plugin"]

mypy ignores what a class decorator returns, so that a decorated class seems to take no texts. With this plugin

- a decorated class derives from `TextConditioned`, and has `prepare`, `encode_texts` and what else the decorator adds;
- its constructor, and those of its subclasses, take the keywords of `TextConditionKeywords`;
- a call takes the parameters of `forward`, without the injected ones and with the keywords of `CallKeywords`, and returns what
  `forward` returns. A method under `classifier_free_guidance` likewise.

Only mypy imports this module. Names and types are read from the two typed dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping

from mypy.mro import calculate_mro
from mypy.nodes import (
    ARG_NAMED_OPT,
    ARG_STAR2,
    Argument,
    CallExpr,
    ClassDef,
    Decorator,
    Expression,
    FuncDef,
    OverloadedFuncDef,
    Statement,
    StrExpr,
    SymbolNode,
    TypeInfo,
    Var,
)
from mypy.plugin import ClassDefContext, FunctionContext, MethodSigContext, Plugin
from mypy.plugins.common import add_attribute_to_class, add_method_to_class
from mypy.subtypes import find_member
from mypy.types import (
    CallableType,
    FunctionLike,
    Instance,
    NoneType,
    Overloaded,
    Type,
    UnboundType,
    UnpackType,
    get_proper_type,
)

PACKAGE = 'classifier_free_guidance_pytorch'
CLASS_DECORATOR = 'classifier_free_guidance_class_decorator'
# The arguments of the decorators, and the name for which each of them brings another.
RENAMED = {
    'cond_drop_prob_keyname': 'cond_drop_prob',
    'texts_key_name': 'texts',
    'text_embeds_key_name': 'text_embeds',
    'cond_fns_keyname': 'cond_fns',
    'text_conditioner_name': 'text_conditioner',
}


def plugin(version: str) -> type[Plugin]:
    """Return the plugin, as mypy asks for it."""
    return GuidancePlugin


class GuidancePlugin(Plugin):
    """Types decorated classes, their subclasses and guided methods."""

    # mypy's hooks

    def get_class_decorator_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:
        """Return what to do with a class under the decorator, once its body was read."""
        return self.decorate if _is_ours(fullname, CLASS_DECORATOR) else None

    def get_class_decorator_hook_2(self, fullname: str) -> Callable[[ClassDefContext], bool] | None:
        """Return what to do with it once all types are known."""
        return self.inherit_constructor if _is_ours(fullname, CLASS_DECORATOR) else None

    def get_base_class_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:
        """Return what to do with a class that has bases."""
        return self.derive

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        """Return how the call of an object is typed."""
        return self.call if fullname.endswith('.__call__') else None

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        """Return how a method under `classifier_free_guidance` is typed."""
        return self.guide if _is_ours(fullname, 'classifier_free_guidance') else None

    # what they do

    def decorate(self, ctx: ClassDefContext) -> None:
        """Let a decorated class derive from `TextConditioned`, behind its other bases."""
        info, base = ctx.cls.info, self.base()
        if isinstance(ctx.reason, CallExpr):
            given = zip(ctx.reason.arg_names, ctx.reason.args, strict=True)
            self.rename(ctx, {name: value for name, value in given if name is not None})
        if base is not None and not info.has_base(base.fullname):
            module = base.bases[0].type
            info.bases = [*(known for known in info.bases if known.type is not module), Instance(base, [])]
            info.mro = []
            calculate_mro(info)

    def derive(self, ctx: ClassDefContext) -> None:
        """Type the constructor of a class that derives from `TextConditioned`, itself or through another."""
        if self.is_conditioned(ctx.cls.info):
            self.rename(ctx, ctx.cls.keywords)
            self.extend_constructor(ctx.cls)

    def extend_constructor(self, cls: ClassDef) -> None:
        """Add the `text_condition_*` keywords to a constructor, before mypy reads its types."""
        for function in (function for statement in cls.defs.body for function in _functions(statement)):
            if function.name != '__init__' or any(_unpacks(argument) for argument in function.arguments):
                continue
            signature = function.type if isinstance(function.type, CallableType) else None
            at = next((i for i, kind in enumerate(function.arg_kinds) if kind is ARG_STAR2), len(function.arg_kinds))
            keywords = self.keywords('TextConditionKeywords').items()
            added = {name: item for name, item in keywords if name not in function.arg_names}
            function.arguments[at:at] = [Argument(Var(name, item), item, None, ARG_NAMED_OPT) for name, item in added.items()]
            function.arg_names = [argument.variable.name for argument in function.arguments]
            function.arg_kinds = [argument.kind for argument in function.arguments]
            if signature is not None:
                function.type = function.unanalyzed_type = _with_keywords(signature, added)

    def inherit_constructor(self, ctx: ClassDefContext) -> bool:
        """Give a decorated class without a constructor that of its base, with the `text_condition_*` keywords."""
        owner = next(cls for cls in ctx.cls.info.mro if '__init__' in cls.names)
        inherited = owner.names['__init__'].type
        if isinstance(inherited, CallableType) and owner is not self.base() and not self.is_conditioned(owner):
            signature = _with_keywords(inherited, self.keywords('TextConditionKeywords'))
            taken = zip(signature.arg_names[1:], signature.arg_kinds[1:], signature.arg_types[1:], strict=True)
            arguments = [Argument(Var(name or '', item), item, None, kind) for name, kind, item in taken]
            add_method_to_class(ctx.api, ctx.cls, '__init__', arguments, NoneType())
        return True

    def rename(self, ctx: ClassDefContext, given: Mapping[str, Expression]) -> None:
        """Remember the names that the decorator was given, for this class and its subclasses."""
        names = {RENAMED[name]: value.value for name, value in given.items() if name in RENAMED and isinstance(value, StrExpr)}
        if names:
            ctx.cls.info.metadata[PACKAGE] = names
        base, attribute = self.base(), names.get('text_conditioner')
        if base is not None and attribute is not None:
            conditioner = base.names['text_conditioner'].type
            if conditioner is not None:
                add_attribute_to_class(ctx.api, ctx.cls, attribute, conditioner)

    def call(self, ctx: MethodSigContext) -> FunctionLike:
        """Type the call of a module by its `forward`."""
        base, called = self.base(), ctx.type
        if base is None or not isinstance(called, Instance):
            return ctx.default_signature
        owner = next((cls for cls in called.type.mro if '__call__' in cls.names), None)
        forward = get_proper_type(find_member('forward', called, called))
        if owner is base and isinstance(forward, FunctionLike) and not _takes_anything(forward):
            return self.guided(forward, called.type)
        if owner is base.bases[0].type and isinstance(forward, CallableType) and 'cond_scale' in forward.arg_names:
            return forward  # of a module whose method is decorated, and not its class
        return ctx.default_signature  # a class may say itself how it is called

    def guide(self, ctx: FunctionContext) -> Type:
        """Type a method under `classifier_free_guidance`."""
        function = get_proper_type(ctx.arg_types[0][0]) if ctx.arg_types and ctx.arg_types[0] else None
        return self.guided(function) if isinstance(function, CallableType) else ctx.default_return_type

    def guided(self, forward: FunctionLike, info: TypeInfo | None = None) -> FunctionLike:
        """Return the type of a `forward` without the injected parameters, with the keywords of a guided call."""
        names = {} if info is None else next((cls.metadata[PACKAGE] for cls in info.mro if PACKAGE in cls.metadata), {})
        keywords = {_renamed(name, names): item for name, item in self.keywords('CallKeywords').items()}
        injected = {names.get('cond_fns', 'cond_fns'), 'raw_text_cond'}
        items = [_with_keywords(item, keywords, injected) for item in forward.items]
        return items[0] if len(items) == 1 else Overloaded(items)

    # the library's own names

    def base(self) -> TypeInfo | None:
        """Return `TextConditioned`, where the files that mypy reads import it."""
        node = self.exported('TextConditioned')
        return node if isinstance(node, TypeInfo) else None

    def is_conditioned(self, info: TypeInfo) -> bool:
        """Return whether a class derives from `TextConditioned`."""
        base = self.base()
        return base is not None and info is not base and info.has_base(base.fullname)

    def keywords(self, name: str) -> dict[str, Type]:
        """Return the keywords of a typed dictionary, with their types."""
        node = self.exported(name)
        return dict(node.typeddict_type.items) if isinstance(node, TypeInfo) and node.typeddict_type is not None else {}

    def exported(self, name: str) -> SymbolNode | None:
        """Return what the package has under a name."""
        symbol = self.lookup_fully_qualified(f'{PACKAGE}.{name}')
        return None if symbol is None else symbol.node


def _is_ours(fullname: str, name: str) -> bool:
    """Return whether a full name is that of a function of this package."""
    return fullname.startswith(f'{PACKAGE}.') and fullname.endswith(f'.{name}')


def _renamed(keyword: str, names: Mapping[str, str]) -> str:
    """Return the name of a keyword of the call, under the names that the decorator was given."""
    positive = keyword.removeprefix('negative_')
    return keyword.removesuffix(positive) + names.get(positive, positive)


def _functions(statement: Statement) -> Iterable[FuncDef]:
    """Return the functions that a statement of a class body defines."""
    if isinstance(statement, OverloadedFuncDef):
        return [function for item in statement.items for function in _functions(item)]
    function = statement.func if isinstance(statement, Decorator) else statement
    return [function] if isinstance(function, FuncDef) else []


def _unpacks(argument: Argument) -> bool:
    """Return whether an argument is `**keywords: Unpack[...]`, with which a constructor names its keywords itself."""
    annotation = argument.type_annotation
    named = isinstance(annotation, UnboundType) and annotation.name.rpartition('.')[2] == 'Unpack'
    return argument.kind is ARG_STAR2 and (named or isinstance(annotation, UnpackType))


def _takes_anything(function: FunctionLike) -> bool:
    """Return whether a type says nothing of the parameters, as that of `nn.Module.forward`."""
    return any(item.is_ellipsis_args for item in function.items)


def _with_keywords(function: CallableType, keywords: Mapping[str, Type], drop: Container[str] = ()) -> CallableType:
    """Return a signature without some parameters, and with keywords that need not be given."""
    function = function.with_unpacked_kwargs()
    parameters = [
        (name, kind, item)
        for name, kind, item in zip(function.arg_names, function.arg_kinds, function.arg_types, strict=True)
        if name not in drop
    ]
    added = [(name, ARG_NAMED_OPT, item) for name, item in keywords.items() if name not in function.arg_names]
    at = next((i for i, (_, kind, _) in enumerate(parameters) if kind is ARG_STAR2), len(parameters))
    parameters[at:at] = added
    return function.copy_modified(
        arg_names=[name for name, _, _ in parameters],
        arg_kinds=[kind for _, kind, _ in parameters],
        arg_types=[item for _, _, item in parameters],
    )
