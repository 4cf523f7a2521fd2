package armtemplate

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

func (t *Template) section(name string) object {
	o, _ := t.template[name].(object)
	return o
}

// declaration returns the declaration of a parameter or output, with the type
// definition that it refers to.
func (t *Template) declaration(section, name string) (object, bool) {
	v, ok := Property(t.section(section), name)
	o, isObject := v.(object)
	for range maxDepth {
		ref, isRef := o["$ref"].(string)
		if !isRef {
			break
		}
		base, _ := t.section("definitions")[strings.TrimPrefix(ref, "#/definitions/")].(object)
		merged := maps.Clone(base)
		if merged == nil {
			return nil, false
		}
		for key, v := range o {
			if key != "$ref" {
				merged[key] = v
			}
		}
		o = merged
	}
	return o, ok && isObject
}

// Secure reports whether a parameter or an output is declared as a secret.
func Secure(declaration object) bool {
	kind, _ := declaration["type"].(string)
	return strings.HasPrefix(strings.ToLower(kind), "secure")
}

// once evaluates a value on its first use, and detects values that depend on
// themselves.
func (t *Template) once(values map[string]any, what, name string, evaluate func() (any, error)) (any, error) {
	key := strings.ToLower(name)
	if v, ok := values[key]; ok {
		return v, nil
	}
	if t.busy[what+key] {
		return nil, fmt.Errorf("circular dependency detected on the template %s '%s'", what, name)
	}
	t.busy[what+key] = true
	defer delete(t.busy, what+key)
	v, err := evaluate()
	if left := maxValue; err == nil && !fits(v, &left) {
		err = fmt.Errorf("the template %s '%s' is too large", what, name)
	}
	if err == nil {
		values[key] = v
	}
	return v, err
}

func (t *Template) parameter(name string) (any, error) {
	return t.once(t.parameters, "parameter", name, func() (any, error) {
		o, ok := t.declaration("parameters", name)
		if !ok {
			return nil, fmt.Errorf("the template parameter '%s' is not found. Please see https://aka.ms/arm-syntax-parameters for usage details", name)
		}
		v, given := Property(t.given, name)
		if byDefault, ok := o["defaultValue"]; !given && ok {
			var err error
			if v, err = (&scope{t: t, stage: atDefaults}).value(byDefault); err != nil {
				return nil, err
			}
		} else if !given && o["nullable"] != true {
			return nil, fmt.Errorf("the value for the template parameter '%s' is not provided. Please see https://aka.ms/arm-create-parameter-file for usage details", name)
		}
		if v == nil && o["nullable"] == true {
			return nil, nil //nolint:nilnil // null is a value of the language
		}
		return v, checkParameter(name, o, v)
	})
}

func checkParameter(name string, o object, v any) error {
	want, _ := o["type"].(string)
	kind, size := "", int64(-1)
	switch v := v.(type) {
	case string:
		kind, size = "string", int64(len([]rune(v)))
	case bool:
		kind = "bool"
	case json.Number:
		kind = "int"
		if _, err := v.Int64(); err != nil {
			kind = "float"
		}
	case object:
		kind = "object"
	case []any:
		kind, size = "array", int64(len(v))
	}
	if plain := strings.TrimPrefix(strings.ToLower(want), "secure"); plain != kind {
		if !slices.Contains([]string{"string", "bool", "int", "object", "array"}, plain) {
			return fmt.Errorf("the type '%s' of the template parameter '%s' is not valid", want, name)
		}
		spell := map[string]string{"string": "String, Uri", "bool": "Boolean", "int": "Integer", "float": "Float", "object": "Object", "array": "Array", "": "Null"}
		return fmt.Errorf("template parameter JToken type is not valid. Expected '%s'. Actual '%s' for the parameter '%s'. Please see https://aka.ms/resource-manager-parameter-files for usage details", spell[plain], spell[kind], name)
	}
	shown := "'" + text(v) + "'"
	if Secure(o) {
		shown = "given"
	}
	if allowed, ok := o["allowedValues"].([]any); ok && !slices.ContainsFunc(allowed, func(x any) bool { return reflect.DeepEqual(x, v) }) {
		return fmt.Errorf("the provided value for the template parameter '%s' is not valid. The value %s is not part of the allowed value(s): '%s'", name, shown, strings.Join(each(allowed), ","))
	}
	if n, err := integer(v); err == nil {
		size = n
	}
	for limit, outside := range map[string]func(int64) bool{
		"minLength": func(n int64) bool { return kind != "int" && size < n }, "maxLength": func(n int64) bool { return kind != "int" && size > n },
		"minValue": func(n int64) bool { return kind == "int" && size < n }, "maxValue": func(n int64) bool { return kind == "int" && size > n },
	} {
		if n, err := integer(o[limit]); err == nil && outside(n) {
			return fmt.Errorf("the provided value for the template parameter '%s' is not valid: %s is %d", name, limit, n)
		}
	}
	return nil
}

func each(list []any) []string {
	out := []string{}
	for _, v := range list {
		out = append(out, text(v))
	}
	return out
}

func (t *Template) variable(name string) (any, error) {
	return t.once(t.values, "variable", name, func() (any, error) {
		s := &scope{t: t, stage: atPlan}
		loops, _ := t.section("variables")["copy"].([]any)
		for _, loop := range loops {
			if o, ok := loop.(object); ok && strings.EqualFold(text(o["name"]), name) {
				_, list, err := s.copied(o)
				return list, err
			}
		}
		raw, ok := Property(t.section("variables"), name)
		if !ok {
			return nil, fmt.Errorf("the template variable '%s' is not found. Please see https://aka.ms/arm-syntax-variables for usage details", name)
		}
		return s.value(raw)
	})
}

func (t *Template) outputs(at stage) (object, error) {
	s := &scope{t: t, stage: at}
	out := object{}
	for _, name := range sortedKeys(t.section("outputs")) {
		o, ok := t.declaration("outputs", name)
		kind, isText := o["type"].(string)
		if !ok || !isText {
			return nil, fmt.Errorf("the template output '%s' is not valid: it has no type", name)
		}
		if c, ok := o["condition"]; ok {
			if holds, err := s.value(c); err != nil || holds == false {
				if err != nil {
					return nil, err
				}
				continue
			}
		}
		v, ok := o["value"], true
		var err error
		if loop, isLoop := o["copy"].(object); isLoop {
			loop = maps.Clone(loop)
			loop["name"] = name
			_, v, err = s.copied(loop)
		} else {
			v, err = s.value(v)
		}
		if err != nil {
			return nil, fmt.Errorf("the template output '%s' is not valid: %w", name, err)
		}
		shown := object{"type": typeName(kind)}
		if ok && !Secure(o) {
			shown["value"] = v
		}
		out[name] = shown
	}
	return out, nil
}

// typeName returns the platform's spelling of a type in its answers.
func typeName(kind string) string {
	for _, name := range []string{"String", "SecureString", "Int", "Bool", "Object", "SecureObject", "Array"} {
		if strings.EqualFold(name, kind) {
			return name
		}
	}
	return kind
}
