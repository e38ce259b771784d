-- What BI tools ask PostgreSQL's catalog for, replayed: all of it is answered.

-- Grafana
SELECT current_setting('server_version_num')::int / 100 AS version;
SELECT quote_ident(table_schema) || '.' || quote_ident(table_name) AS "table" FROM information_schema.tables
 WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog') ORDER BY 1;
SELECT quote_ident(column_name) AS "column", data_type AS "type" FROM information_schema.columns
 WHERE quote_ident(table_name) = 'events';
SELECT column_name, data_type, udt_name FROM information_schema.columns
 WHERE table_schema = 'public' AND table_name = 'events' ORDER BY ordinal_position;

-- Metabase
SHOW TRANSACTION ISOLATION LEVEL;
SELECT nspname AS schema FROM pg_namespace WHERE has_schema_privilege(nspname, 'USAGE') AND nspname <> 'information_schema';
SELECT n.nspname AS "schema", c.relname AS "name",
       CASE c.relkind WHEN 'r' THEN 'TABLE' WHEN 'v' THEN 'VIEW' ELSE 'OTHER' END AS "type",
       d.description AS "description", c.reltuples::bigint AS "estimated-row-count"
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON c.relnamespace = n.oid
  LEFT JOIN pg_catalog.pg_description d ON c.oid = d.objoid AND d.objsubid = 0
 WHERE c.relkind IN ('r', 'p', 'v', 'f', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY "schema", "name";
SELECT c.column_name AS "name", c.udt_name AS "database-type", c.ordinal_position - 1 AS "database-position",
       c.table_schema AS "table-schema", c.table_name AS "table-name", c.is_nullable = 'NO' AS "required"
  FROM information_schema.columns c
 WHERE c.table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY "table-schema", "table-name", "database-position";
SELECT t.typname FROM pg_type t JOIN pg_enum e ON t.oid = e.enumtypid;

-- DBeaver
SHOW search_path;
SELECT current_schema(), session_user;
SELECT version();
SELECT db.oid, db.* FROM pg_catalog.pg_database db WHERE datallowconn AND NOT datistemplate OR db.datname = 'pugmark' ORDER BY db.datname;
SELECT n.oid, n.*, d.description FROM pg_catalog.pg_namespace n
  LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid = n.oid AND d.objsubid = 0 ORDER BY nspname;
SELECT t.oid, t.*, c.relkind, format_type(nullif(t.typbasetype, 0), t.typtypmod) AS base_type_name, d.description
  FROM pg_catalog.pg_type t
  LEFT OUTER JOIN pg_catalog.pg_type et ON et.oid = t.typelem
  LEFT OUTER JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
  LEFT OUTER JOIN pg_catalog.pg_description d ON t.oid = d.objoid
 WHERE t.typname IS NOT NULL AND (c.relkind IS NULL OR c.relkind = 'c') AND (et.typcategory IS NULL OR et.typcategory <> 'C');
SELECT c.oid, c.*, d.description, pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS partition_expr,
       pg_catalog.pg_get_partkeydef(c.oid) AS partition_key
  FROM pg_catalog.pg_class c
  LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid = c.oid AND d.objsubid = 0 AND d.classoid = 'pg_class'::regclass
 WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public') AND c.relkind NOT IN ('i', 'I', 'c');
SELECT c.relname, a.*, pg_catalog.pg_get_expr(ad.adbin, ad.adrelid, true) AS def_value, dsc.description, dep.objid
  FROM pg_catalog.pg_attribute a
 INNER JOIN pg_catalog.pg_class c ON (a.attrelid = c.oid)
  LEFT OUTER JOIN pg_catalog.pg_attrdef ad ON (a.attrelid = ad.adrelid AND a.attnum = ad.adnum)
  LEFT OUTER JOIN pg_catalog.pg_description dsc ON (c.oid = dsc.objoid AND a.attnum = dsc.objsubid)
  LEFT OUTER JOIN pg_depend dep ON dep.refobjid = a.attrelid AND dep.deptype = 'i' AND dep.refobjsubid = a.attnum
       AND dep.classid = dep.refclassid
 WHERE NOT a.attisdropped AND c.relname = 'events' ORDER BY a.attnum;
SELECT * FROM pg_catalog.pg_settings WHERE name = 'standard_conforming_strings';
SELECT i.*, i.indkey AS keys, c.relname, c.relnamespace, c.relam, c.reltablespace, tc.relname AS tabrelname, dsc.description
  FROM pg_catalog.pg_index i
 INNER JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
 INNER JOIN pg_catalog.pg_class tc ON tc.oid = i.indrelid
  LEFT OUTER JOIN pg_catalog.pg_description dsc ON i.indexrelid = dsc.objoid;
SELECT r.oid, r.rolname FROM pg_catalog.pg_roles r ORDER BY r.rolname;

-- Drivers
SELECT typinput = 'pg_catalog.array_in'::regproc AS is_array, typname FROM pg_catalog.pg_type WHERE oid = 1009;
SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid WHERE typname = 'hstore';
SELECT oid, typname FROM pg_catalog.pg_type WHERE typname IN ('int8', 'text', 'timestamptz');
SELECT to_regclass('events') IS NOT NULL AS found, to_regclass('nothing') IS NULL AS missing;
SELECT pg_is_in_recovery(), pg_backend_pid() > 0, current_database(), current_user;
