// MySQL and MariaDB: the schema, step by step.

package eventstore

var mysqlSchema = [][]string{
	{`
CREATE TABLE IF NOT EXISTS {streams} (
    id         BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name       VARBINARY(255) NOT NULL UNIQUE,
    metadata   LONGTEXT       NOT NULL,
    created_at DATETIME(6)    NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin`, `
CREATE TABLE IF NOT EXISTS {events} (
    position     BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
    stream_id    BIGINT         NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    version      BIGINT         NOT NULL,
    event_id     BINARY(16)     NOT NULL,
    name         VARBINARY(255) NOT NULL,
    data         LONGTEXT       NOT NULL,
    metadata     LONGTEXT       NOT NULL,
    recorded_at  DATETIME(6)    NOT NULL,
    UNIQUE KEY (stream_id, aggregate_id, version),
    UNIQUE KEY (event_id),
    KEY (stream_id, position)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin`,
	},
	{`
CREATE TABLE IF NOT EXISTS {snapshots} (
    stream_id    BIGINT         NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    version      BIGINT         NOT NULL,
    position     BIGINT         NOT NULL,
    schema_no    BIGINT         NOT NULL,
    state        LONGTEXT       NOT NULL,
    PRIMARY KEY (stream_id, aggregate_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin`, `
CREATE TABLE IF NOT EXISTS {projections} (
    name        VARBINARY(255) NOT NULL PRIMARY KEY,
    position    BIGINT         NOT NULL,
    state       LONGTEXT,
    status      VARBINARY(16)  NOT NULL,
    owner       VARBINARY(255) NOT NULL,
    epoch       BIGINT         NOT NULL,
    generation  BIGINT         NOT NULL,
    lease_until DATETIME(6)    NOT NULL,
    read_model  BOOLEAN        NOT NULL,
    retry       BOOLEAN        NOT NULL,
    error       LONGTEXT       NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin`, `
CREATE TABLE IF NOT EXISTS {parked} (
    projection   VARBINARY(255) NOT NULL,
    position     BIGINT         NOT NULL,
    stream       VARBINARY(255) NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    error        LONGTEXT       NOT NULL,
    PRIMARY KEY (projection, position)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin`,
	},
	// Of streams and projections that are there it is not known: see backend.streamEmitter.
	{
		`ALTER TABLE {streams} ADD COLUMN emitted_by VARBINARY(255)`,
		`ALTER TABLE {projections} ADD COLUMN kind VARBINARY(16) NOT NULL DEFAULT ''`,
		`ALTER TABLE {projections} ADD COLUMN delete_emitted BOOLEAN NOT NULL DEFAULT FALSE`,
	},
	// What definitions of a projection have taken in, and what operators ask for.
	{`
ALTER TABLE {projections}
    ADD COLUMN began            BIGINT         NOT NULL DEFAULT 0,
    ADD COLUMN replay_to        BIGINT         NOT NULL DEFAULT 0,
    ADD COLUMN wants            VARBINARY(64)  NOT NULL DEFAULT '',
    ADD COLUMN wanted           LONGTEXT,
    ADD COLUMN taken            LONGTEXT,
    ADD COLUMN changing         BIGINT         NOT NULL DEFAULT 0,
    ADD COLUMN paused           BOOLEAN        NOT NULL DEFAULT FALSE,
    ADD COLUMN control          VARBINARY(32)  NOT NULL DEFAULT '',
    ADD COLUMN control_by       VARBINARY(255) NOT NULL DEFAULT '',
    ADD COLUMN control_position BIGINT         NOT NULL DEFAULT 0,
    ADD COLUMN control_at       DATETIME(6)`,
		`ALTER TABLE {parked} ADD COLUMN retry BOOLEAN NOT NULL DEFAULT FALSE`, `
CREATE TABLE IF NOT EXISTS {verdicts} (
    projection VARBINARY(255) NOT NULL,
    position   BIGINT         NOT NULL,
    action     VARBINARY(16)  NOT NULL,
    PRIMARY KEY (projection, position)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin`,
	},
	{`
CREATE TABLE IF NOT EXISTS {documents} (
    projection VARBINARY(255) NOT NULL,
    doc_key    VARBINARY(255) NOT NULL,
    position   BIGINT         NOT NULL,
    state      LONGTEXT       NOT NULL,
    labels     TEXT           NOT NULL,
    PRIMARY KEY (projection, doc_key)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin`, `
CREATE TABLE IF NOT EXISTS {labels} (
    projection VARBINARY(255) NOT NULL,
    label      VARBINARY(255) NOT NULL,
    doc_key    VARBINARY(255) NOT NULL,
    PRIMARY KEY (projection, label, doc_key)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin`,
	},
}
