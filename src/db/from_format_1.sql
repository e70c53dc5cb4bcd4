-- From the catalog of format 1 to that of format 2. What is new: volumes and their backups and snapshots have a face of their
-- own, a job may be about a volume alone, quotas may follow a default.
INSERT INTO meta SELECT * FROM old_meta;
INSERT INTO user SELECT * FROM old_user;
INSERT INTO project SELECT * FROM old_project;
INSERT INTO token (id, user_id, hash, name, created, expires) SELECT id, user_id, hash, name, created, expires FROM old_token;
INSERT INTO role SELECT * FROM old_role;
-- Unlimited was what nobody had limited: such a quota follows the default from now on.
INSERT INTO quota (project_id, name, uuid, "limit") SELECT project_id, name, uuid, nullif("limit", -1) FROM old_quota;
INSERT INTO quota (project_id, name, uuid)
    SELECT p.id, n.column1, lower(hex(randomblob(16))) FROM project p,
        (VALUES ('snapshots'), ('gigabytes'), ('backups'), ('backup_gigabytes'), ('per_volume_gigabytes'), ('groups')) n;
INSERT INTO image SELECT * FROM old_image;
INSERT INTO flavor SELECT * FROM old_flavor;
INSERT INTO volume (id, uuid, project_id, name, path, kind, size, managed, state, error_message, created)
    SELECT id, uuid, project_id, name, path, kind, size, managed, iif(state = 'restoring', 'error_restoring', state), error_message, created
    FROM old_volume;
INSERT INTO instance SELECT * FROM old_instance;
INSERT INTO instance_volume SELECT * FROM old_instance_volume;
INSERT INTO schedule SELECT *, '' FROM old_schedule;
INSERT INTO backup (id, uuid, kind, project_id, instance_id, schedule_id, trigger_at, description, state, error_message, fail_reason,
        created_at, updated_at, finished_at, kept_until, size, reserved, stored, metadata)
    SELECT id, uuid, 'instance', project_id, instance_id, schedule_id, trigger_at, description, state, error_message,
        nullif(error_message, ''), created_at, finished_at, finished_at, kept_until, size, reserved, stored, metadata
    FROM old_backup;
INSERT INTO volume_backup (id, uuid, backup_id, kind, project_id, position, volume_id, volume_uuid, name, bootable, size, map_id, stored,
        created, title, data_timestamp)
    SELECT p.id, p.uuid, p.backup_id, 'instance', b.project_id, p.position, p.volume_id,
        coalesce(v.uuid, json_extract(b.metadata, '$.volumes[' || p.position || '].uuid'), '00000000000000000000000000000000'),
        p.name, p.bootable, p.size, p.map_id, p.stored, p.created, p.name, p.created
    FROM old_volume_backup p JOIN old_backup b ON b.id = p.backup_id LEFT JOIN old_volume v ON v.id = p.volume_id;
INSERT INTO restoration SELECT * FROM old_restoration;
INSERT INTO job (id, kind, backup_id, target, created) SELECT id, kind, backup_id, target, created FROM old_job;
INSERT INTO event SELECT * FROM old_event;
