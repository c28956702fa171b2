"""The shapes of operations in a migration file: pgroll's, and those beyond them. Each makes one of the domain's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from crossfade.domain.migrations import operations as ops
from crossfade.domain.migrations.operations import Operation


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_text), Field(max_length=100_000)]
Name = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=63)]
Rule = Literal["CASCADE", "RESTRICT", "SET NULL", "SET DEFAULT", "NO ACTION"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class _Check(_Model):
    name: Name
    constraint: Text
    no_inherit: bool = False

    def made(self) -> ops.Check:
        return ops.Check(self.name, self.constraint, self.no_inherit)


class _References(_Model):
    name: str = ""
    table: Name
    column: Name | None = None
    columns: tuple[Name, ...] = ()
    on_delete: Rule | None = None
    on_delete_set_columns: tuple[Name, ...] = ()
    on_update: Rule | None = None
    match_type: Literal["SIMPLE", "FULL", "PARTIAL"] | None = None
    deferrable: bool = False
    initially_deferred: bool = False

    def made(self, name: str = "") -> ops.References:
        return ops.References(
            self.name or name,
            self.table,
            (self.column,) if self.column else self.columns,
            self.on_delete or "",
            self.on_update or "",
            self.on_delete_set_columns,
            self.match_type or "",
            self.deferrable,
            self.initially_deferred,
        )


class _Identity(_Model):
    user_specified_values: Literal["ALWAYS", "BY DEFAULT"] = "BY DEFAULT"
    sequence_options: Text = ""


class _Generated(_Model):
    expression: Text | None = None
    identity: _Identity | None = None


class _Column(_Model):
    name: Name
    type: Text
    nullable: bool = False
    unique: bool = False
    pk: bool = False
    default: Text | None = None
    comment: Text | None = None
    check: _Check | None = None
    references: _References | None = None
    generated: _Generated | None = None
    up: Text | None = None

    def made(self) -> ops.Column:
        generated = self.generated or _Generated()
        identity = generated.identity
        return ops.Column(
            self.name,
            self.type,
            self.nullable,
            self.pk,
            self.unique,
            self.default,
            self.comment,
            self.check.made() if self.check else None,
            self.references.made() if self.references else None,
            generated.expression,
            ops.Identity(identity.user_specified_values == "ALWAYS", identity.sequence_options) if identity else None,
            self.up,
        )


class _Exclude(_Model):
    index_method: Text = "gist"
    elements: Text
    predicate: Text = ""


class _Parameters(_Model):
    include_columns: tuple[Name, ...] = ()
    storage_parameters: Text = ""
    tablespace: Text = ""


class _Constraint(_Model):
    name: Name
    type: Literal["unique", "check", "primary_key", "foreign_key", "exclude"]
    columns: tuple[Name, ...] = ()
    check: Text = ""
    no_inherit: bool = False
    nulls_not_distinct: bool = False
    deferrable: bool = False
    initially_deferred: bool = False
    references: _References | None = None
    index_parameters: _Parameters | None = None
    exclude: _Exclude | None = None

    def made(self) -> ops.Constraint:
        parameters, exclude = self.index_parameters or _Parameters(), ""
        if self.exclude is not None:
            where = f" WHERE ({self.exclude.predicate})" if self.exclude.predicate else ""
            exclude = f"USING {self.exclude.index_method} ({self.exclude.elements}){where}"
        needs = {"check": self.check, "foreign_key": self.references, "exclude": exclude}
        if self.type in needs and not needs[self.type]:
            key = {"foreign_key": "references"}.get(self.type, self.type)
            raise ValueError(f"{key} is missing")
        if self.type in ("unique", "primary_key", "foreign_key") and not self.columns:
            raise ValueError("columns are missing")
        return ops.Constraint(
            self.name,
            self.type,
            self.columns,
            self.check,
            self.no_inherit,
            self.references.made(self.name) if self.references else None,
            self.nulls_not_distinct,
            self.deferrable,
            self.initially_deferred,
            parameters.include_columns,
            parameters.storage_parameters,
            parameters.tablespace,
            exclude,
        )


class _CreateTable(_Model):
    name: Name
    columns: tuple[_Column, ...]
    constraints: tuple[_Constraint, ...] = ()
    comment: Text | None = None

    def made(self) -> Operation:
        columns, constraints = tuple(c.made() for c in self.columns), tuple(c.made() for c in self.constraints)
        return ops.CreateTable(self.name, columns, constraints, self.comment)


class _FromTo(_Model):
    old: Name = Field(alias="from")
    to: Name


class _RenameTable(_FromTo):
    def made(self) -> Operation:
        return ops.RenameTable(self.old, self.to)


class _RenameColumn(_FromTo):
    table: Name

    def made(self) -> Operation:
        return ops.RenameColumn(self.table, self.old, self.to)


class _RenameConstraint(_FromTo):
    table: Name

    def made(self) -> Operation:
        return ops.RenameConstraint(self.table, self.old, self.to)


class _DropTable(_Model):
    name: Name

    def made(self) -> Operation:
        return ops.DropTable(self.name)


class _DropIndex(_Model):
    name: Name

    def made(self) -> Operation:
        return ops.DropIndex(self.name)


class _AddColumn(_Model):
    table: Name
    column: _Column
    up: Text | None = None

    def made(self) -> Operation:
        return ops.AddColumn(self.table, self.column.made(), self.up if self.up is not None else self.column.up)


class _DropColumn(_Model):
    table: Name
    column: Name
    down: Text | None = None

    def made(self) -> Operation:
        return ops.DropColumn(self.table, self.column, self.down)


class _Unique(_Model):
    name: Name


class _AlterColumn(_Model):
    table: Name
    column: Name
    name: Name | None = None
    type: Text | None = None
    nullable: bool | None = None
    default: Text | None = None
    comment: Text | None = None
    check: _Check | None = None
    references: _References | None = None
    unique: _Unique | None = None
    up: Text | None = None
    down: Text | None = None

    def made(self) -> Operation:
        given = self.model_fields_set
        if self.name is not None:
            if given != {"table", "column", "name"}:
                raise ValueError("a name goes into rename_column, apart from other changes")
            return ops.RenameColumn(self.table, self.column, self.name)
        return ops.AlterColumn(
            self.table,
            self.column,
            self.up,
            self.down,
            self.type,
            self.nullable,
            _nothing(self.default) if "default" in given else ops.UNSET,
            _nothing(self.comment) if "comment" in given else ops.UNSET,
            self.check.made() if self.check else None,
            self.references.made() if self.references else None,
            self.unique.name if self.unique else None,
        )


class _SplitColumn(_Model):
    table: Name
    column: Name
    into: tuple[_Column, ...]
    down: Text

    def made(self) -> Operation:
        return ops.SplitColumn(self.table, self.column, tuple(c.made() for c in self.into), self.down)


class _MergeColumns(_Model):
    table: Name
    columns: tuple[Name, ...]
    into: _Column
    up: Text
    down: dict[str, Text]

    def made(self) -> Operation:
        return ops.MergeColumns(self.table, self.columns, self.into.made(), self.up, tuple(self.down.items()))


class _OpClass(_Model):
    name: Name
    params: tuple[Text, ...] = ()


class _IndexColumn(_Model):
    collate: str = ""
    nulls: Literal["", "FIRST", "LAST"] = ""
    opclass: _OpClass | None = None
    sort: Literal["", "ASC", "DESC"] = ""


class _CreateIndex(_Model):
    name: Name
    table: Name
    columns: tuple[Name, ...] | dict[str, _IndexColumn | None]
    unique: bool = False
    method: str = ""
    predicate: Text = ""
    storage_parameters: Text = ""

    def made(self) -> Operation:
        given = self.columns if isinstance(self.columns, dict) else dict.fromkeys(self.columns)
        columns = tuple(_index_column(name, one or _IndexColumn()) for name, one in given.items())
        return ops.CreateIndex(
            self.table, self.name, columns, self.method, self.unique, self.predicate, self.storage_parameters
        )


def _index_column(name: str, one: _IndexColumn) -> ops.IndexColumn:
    opclass = one.opclass
    words = ""
    if opclass is not None:
        words = opclass.name + (f"({', '.join(opclass.params)})" if opclass.params else "")
        if not re.fullmatch(r"[\w.]+(\([\w =,.']*\))?", words):
            raise ValueError(f"opclass {words} is none")
    return ops.IndexColumn(name, one.collate, words, one.sort, one.nulls)


class _CreateConstraint(_Constraint):
    table: Name
    up: dict[str, Text] = {}
    down: dict[str, Text] = {}

    def made(self) -> Any:
        return ops.CreateConstraint(self.table, super().made(), tuple(self.up.items()), tuple(self.down.items()))


class _DropConstraint(_Model):
    table: Name
    name: Name
    up: Text | None = None
    down: Text | None = None

    def made(self) -> Operation:
        ups, downs = ((("", sql),) if sql is not None else () for sql in (self.up, self.down))
        return ops.DropConstraint(self.table, self.name, ups, downs)


class _DropMulticolumn(_Model):
    table: Name
    name: Name
    up: dict[str, Text] = {}
    down: dict[str, Text] = {}

    def made(self) -> Operation:
        return ops.DropConstraint(self.table, self.name, tuple(self.up.items()), tuple(self.down.items()), 2)


class _ReplicaIdentity(_Model):
    type: str
    index: str = ""


class _SetReplicaIdentity(_Model):
    table: Name
    identity: _ReplicaIdentity

    def made(self) -> Operation:
        return ops.SetReplicaIdentity(self.table, self.identity.type, self.identity.index)


class _Sql(_Model):
    up: Text
    down: Text = ""
    on_complete: bool = Field(default=False, alias="onComplete")

    def made(self) -> Operation:
        return ops.Sql(self.up, self.down, self.on_complete)


class _EnumValue(_Model):
    value: Text
    before: Text | None = None
    after: Text | None = None


class _AddEnumValues(_Model):
    type: Name
    values: tuple[Text | _EnumValue, ...] = Field(min_length=1)

    def made(self) -> Operation:
        values = []
        for one in self.values:
            if isinstance(one, str):
                values.append((one, "", ""))
            elif one.before is not None and one.after is not None:
                raise ValueError("before and after: one of them")
            elif one.before is not None:
                values.append((one.value, "before", one.before))
            else:
                values.append((one.value, "after" if one.after is not None else "", one.after or ""))
        return ops.AddEnumValues(self.type, tuple(values))


class _ReplaceEnum(_Model):
    type: Name
    values: tuple[Text, ...] = Field(min_length=1)
    up: dict[str, Text] = {}
    down: dict[str, Text] = {}

    def made(self) -> Operation:
        return ops.ReplaceEnum(self.type, self.values, tuple(self.up.items()), tuple(self.down.items()))


class _AttachPartition(_Model):
    table: Name
    partition: Name
    bounds: Annotated[Text, Field(pattern=r"(?is)^\s*(FOR\s+VALUES\s+(IN|FROM|WITH)\s*\(.*\)|DEFAULT)\s*$")]
    check: Text = ""

    def made(self) -> Operation:
        return ops.AttachPartition(self.table, self.partition, self.bounds.strip(), self.check)


class _DetachPartition(_Model):
    table: Name
    partition: Name

    def made(self) -> Operation:
        return ops.DetachPartition(self.table, self.partition)


OPERATIONS: Final[Mapping[str, type[Any]]] = {
    "create_table": _CreateTable,
    "rename_table": _RenameTable,
    "rename_column": _RenameColumn,
    "rename_constraint": _RenameConstraint,
    "drop_table": _DropTable,
    "add_column": _AddColumn,
    "drop_column": _DropColumn,
    "alter_column": _AlterColumn,
    "split_column": _SplitColumn,
    "merge_columns": _MergeColumns,
    "create_index": _CreateIndex,
    "drop_index": _DropIndex,
    "create_constraint": _CreateConstraint,
    "drop_constraint": _DropConstraint,
    "drop_multicolumn_constraint": _DropMulticolumn,
    "set_replica_identity": _SetReplicaIdentity,
    "sql": _Sql,
    "add_enum_values": _AddEnumValues,
    "replace_enum": _ReplaceEnum,
    "attach_partition": _AttachPartition,
    "detach_partition": _DetachPartition,
}


def _nothing(text: str | None) -> str | None:
    return None if text is None or text.lower() in ("null", "~", "") else text
