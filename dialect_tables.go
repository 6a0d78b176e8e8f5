// What databases tell of the tables that read models are, for readModelStatements.facts.

package eventstore

// A table that has triggers is not plain: foreign keys from or to it are some. Nor is one with a default that
// calls a function: a sequence counts the rows in their order.
const postgresTableFacts = `
SELECT 'plain', c.oid::text FROM pg_class c
WHERE c.oid = to_regclass(concat_ws('.', NULLIF(?::text, ''), ?::text)) AND c.relkind = 'r'
AND NOT (c.relhastriggers OR c.relhasrules OR c.relrowsecurity OR c.relhassubclass)
AND NOT EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attidentity <> '')
AND NOT EXISTS (SELECT 1 FROM pg_attrdef d WHERE d.adrelid = c.oid
                AND pg_get_expr(d.adbin, d.adrelid) LIKE '%(%' AND pg_get_expr(d.adbin, d.adrelid) <> 'now()')
UNION ALL
SELECT 'unique', (SELECT string_agg(COALESCE(a.attname, '-'), ',')
                  FROM unnest(i.indkey) AS k (attnum) LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum)
FROM pg_index i
WHERE i.indrelid = to_regclass(concat_ws('.', NULLIF(?::text, ''), ?::text)) AND (i.indisunique OR i.indisexclusion)
UNION ALL
SELECT CASE WHEN a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN 'integer'
            WHEN a.atttypid = 'bytea'::regtype THEN 'bytes'
            WHEN a.atttypid = 'uuid'::regtype THEN 'uuid'
            ELSE 'text' END, a.attname::text
FROM pg_attribute a
WHERE a.attrelid = to_regclass(concat_ws('.', NULLIF(?::text, ''), ?::text)) AND a.attnum > 0 AND NOT a.attisdropped
AND (a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bytea'::regtype, 'uuid'::regtype)
     OR a.atttypid IN ('text'::regtype, 'varchar'::regtype)
     AND a.attcollation IN ('pg_catalog.default'::regcollation, 'pg_catalog."C"'::regcollation, 'pg_catalog."POSIX"'::regcollation))`

// The collations that keyFolded is for are those to which letters and digits of ASCII are alike only if they are
// the same or differ in case.
const mysqlTableFacts = `
SELECT 'plain', CONCAT(table_schema, '.', table_name) FROM information_schema.tables
WHERE table_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND table_name = ?
AND table_type = 'BASE TABLE' AND engine = 'InnoDB' AND @@SESSION.sql_mode LIKE '%STRICT%'
AND NOT EXISTS (SELECT 1 FROM information_schema.triggers
                WHERE event_object_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND event_object_table = ?)
AND NOT EXISTS (SELECT 1 FROM information_schema.referential_constraints
                WHERE constraint_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND table_name = ?)
AND NOT EXISTS (SELECT 1 FROM information_schema.referential_constraints
                WHERE constraint_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND referenced_table_name = ?)
AND NOT EXISTS (SELECT 1 FROM information_schema.columns
                WHERE table_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND table_name = ?
                AND (extra LIKE '%auto_increment%' OR column_default LIKE '%nextval%'))
UNION ALL
SELECT 'strict', table_name FROM information_schema.tables
WHERE table_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND table_name = ?
AND engine = 'InnoDB' AND @@SESSION.sql_mode LIKE '%STRICT%'
UNION ALL
SELECT 'unique', GROUP_CONCAT(CASE WHEN sub_part IS NULL THEN COALESCE(column_name, '-') ELSE '-' END)
FROM information_schema.statistics
WHERE table_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND table_name = ? AND non_unique = 0
GROUP BY index_name
UNION ALL
SELECT CASE WHEN data_type IN ('tinyint', 'smallint', 'mediumint', 'int', 'bigint') THEN 'integer'
            WHEN data_type = 'uuid' THEN 'uuid'
            WHEN data_type = 'varbinary' OR collation_name LIKE '%\_bin' THEN 'text'
            ELSE 'fold' END, column_name
FROM information_schema.columns
WHERE table_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND table_name = ?
AND (data_type IN ('tinyint', 'smallint', 'mediumint', 'int', 'bigint', 'uuid', 'varbinary')
     OR data_type IN ('char', 'varchar')
     AND (collation_name LIKE '%\_bin'
          OR collation_name IN ('utf8mb4_general_ci', 'utf8mb4_unicode_ci', 'utf8mb4_unicode_520_ci', 'utf8mb4_0900_ai_ci',
                                'utf8mb4_0900_as_ci', 'utf8mb4_0900_as_cs', 'utf8mb4_uca1400_ai_ci', 'utf8mb4_uca1400_as_ci',
                                'utf8mb4_uca1400_as_cs', 'utf8mb3_general_ci', 'utf8mb3_unicode_ci', 'utf8_general_ci', 'utf8_unicode_ci',
                                'latin1_swedish_ci', 'latin1_general_ci', 'ascii_general_ci')))`
